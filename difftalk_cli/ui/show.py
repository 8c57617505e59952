"""Pieces of the page as HTML. Whatever came from a file or a user is escaped."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from difftalk_cli.progress import clock
from difftalk_cli.ui.jobs import Job

NAMES = {"preview": "Preview", "video": "Video", "smooth": "Smooth video", "scores": "Comparison", "mark": "Mark"}
STATES = {"waiting": "waiting", "running": "running", "stopping": "stopping", "done": "done", "failed": "failed", "stopped": "stopped"}


def notice(text: str, kind: str = "error") -> str:
    """A message beside the form; empty for none."""
    return f'<div class="dt-notice dt-{kind}" role="{"alert" if kind == "error" else "status"}">{escape(text)}</div>' if text else ""


def label(job: Job) -> str:
    """A job in the list, one line."""
    state = STATES[job.state]
    if job.state == "running" and (part := _share(job)) is not None:
        state = f"{part:.0%}"
    return f"#{job.number} {NAMES.get(job.kind, job.kind)} · {job.title} · {state}"


def _share(job: Job) -> float | None:
    total = job.bar.get("total")
    return min(1.0, job.bar["done"] / total) if total else None


def status(job: Job | None, ahead: int = 0) -> str:
    """How the chosen job stands: stage, share, rate, time left, what it last said."""
    if job is None:
        return '<div class="dt-status dt-empty">Nothing made yet. Results appear here, and stay when this tab is closed.</div>'
    words = {"waiting": f"waiting, {ahead} before it" if ahead else "waiting", "stopping": "stopping, tidying up"}
    head = f'<div class="dt-head"><b>#{job.number} {escape(NAMES.get(job.kind, job.kind))}</b> <span>{escape(job.title)}</span>'
    head += f'<span class="dt-state dt-{job.state}">{words.get(job.state, job.state)}</span></div>'
    return f'<div class="dt-status" data-state="{job.state}" data-number="{job.number}">{head}{_bar(job)}{_said(job)}</div>'


def _bar(job: Job) -> str:
    if job.state not in ("running", "stopping"):
        return ""
    bar, part = job.bar, _share(job)
    if not bar:
        return '<div class="dt-bar"><i class="dt-unknown"></i></div><div class="dt-figures"><span>starting</span></div>'
    figures = [bar["title"], f"{bar['done']:.0f}" + (f" of {bar['total']:.0f}" if bar["total"] else "") + f" {bar['unit']}"]
    if bar["rate"] > 0:
        figures.append(f"{bar['rate']:.3g} {bar['unit']}/s")
    if bar["left"] is not None:
        figures.append(f"{clock(bar['left'])} left")
    if bar["note"]:
        figures.append(bar["note"])
    fill = '<i class="dt-unknown"></i>' if part is None else f'<i style="width:{100 * part:.1f}%"></i>'
    share = "" if part is None else f'role="progressbar" aria-valuenow="{100 * part:.0f}"'
    return f'<div class="dt-bar" {share}>{fill}</div><div class="dt-figures">{"".join(f"<span>{escape(f)}</span>" for f in figures)}</div>'


def _said(job: Job) -> str:
    error = notice(job.error, "stopped" if job.state == "stopped" else "error")
    first, *more = [notice(line, "warning") for line in dict.fromkeys(job.lines) if line.startswith("warning: ")] or [""]
    warnings = first + (f"<details class='dt-log'><summary>{len(more)} more</summary>{''.join(more)}</details>" if more else "")
    plain = [line for line in job.lines if not line.startswith("warning: ")]
    log = f"<details class='dt-log'><summary>Log</summary><pre>{escape(chr(10).join(plain))}</pre></details>" if plain else ""
    return error + warnings + log


# -- results


def result(job: Job | None) -> str:
    """What the job made."""
    if job is None or job.state != "done":
        return ""
    return {"preview": _preview, "video": _video, "smooth": _smooth, "scores": _scores, "mark": _mark}[job.kind](job)


def _link(job: Job, name: str) -> str:
    return f"/jobs/{job.id}/{name}"


def _download(job: Job, name: str, text: str) -> str:
    saved = f"{Path(job.title).stem or 'difftalk'}-{job.number}{Path(name).suffix}"
    return f'<a class="dt-link" href="{_link(job, name)}" download="{escape(saved)}">{escape(text)}</a>'


def _preview(job: Job) -> str:
    facts = job.facts
    return (
        f'<figure class="dt-preview"><img src="{_link(job, "preview.png")}" alt="source and result side by side">'
        f"<figcaption><span>source</span><span>result</span></figcaption></figure>"
        f'<p class="dt-small">Frame {facts["frame"]}, the one that speaks loudest; {facts["seconds"]["all"]:.1f} s.</p>'
    )


def _player(job: Job, left: str, right: str, split: float = 0.5) -> str:
    """Two videos in step over each other, with a line that can be moved (static/page.js); `split` is its share of the width."""
    at = round(100 * min(max(split, 0.0), 1.0))
    return f"""<div class="dt-player" data-mode="split">
<div class="dt-frame"><div class="dt-stage" style="--split: {at}%">
<video class="dt-source" src="{_link(job, "source.mp4")}" muted playsinline preload="auto"></video>
<video class="dt-result" src="{_link(job, "result.mp4")}" playsinline preload="auto"></video>
<div class="dt-line"></div><span class="dt-tag dt-left">{left}</span><span class="dt-tag dt-right">{right}</span>
</div>
<input class="dt-split" type="range" min="0" max="100" value="{at}" aria-label="where source and result meet"></div>
<div class="dt-controls"><button class="dt-play" type="button" aria-label="play or pause">Play</button>
<input class="dt-seek" type="range" min="0" max="1000" value="0" aria-label="moment"><span class="dt-time">0:00</span>
<button class="dt-mode" type="button">Side by side</button></div>
<p class="dt-unplayable" hidden>This browser cannot play the file; download it.</p>
</div>"""


def _video(job: Job) -> str:
    links = _download(job, "result.mp4", "Download video") + _download(job, "result.json", "out.json")
    return _player(job, "source", "result", _face_at(job.facts)) + f'<div class="dt-links">{links}</div>' + facts(job.facts)


def _face_at(told: dict[str, Any]) -> float:
    """Where across the picture the mouth is that speaks anew: there the line shows both at once."""
    people, face = told["people"], told["settings"]["face"] or 0
    return people[face]["x"] if face < len(people) else 0.5


def _smooth(job: Job) -> str:
    told = {"frame rate": f"{job.facts['fps']} fps", "seconds": job.facts.get("seconds", "")}
    links = _download(job, "result.mp4", "Download video") + _download(job, "result.json", "out.json")
    return _player(job, "before", "smooth") + f'<div class="dt-links">{links}</div>' + _table(told) + _whole(job.facts)


def facts(told: dict[str, Any]) -> str:
    """out.json for people: coverage, lost frames, seed, steps, hashes."""
    settings, seconds = told["settings"], told["seconds"]
    rows = {
        "coverage": f"{told['coverage']:.1%} of {told['frames']} frames speak anew",
        "lost": _runs(told["frames_lost"]),
        "turned away": _runs(told["frames_turned"]),
        "covered by something": _runs(told["frames_covered"]),
        "picture": f"{told['size'][0]}x{told['size'][1]}, {_rate(told['fps'])} fps, {told['seconds_sound']:.2f} s",
        "seed and steps": f"{settings['seed']}, {settings['steps']}",
        "people seen": _people(told["people"]),
        "speed": f"{told['frames'] / max(seconds['all'], 1e-9):.2f} frames/s over {seconds['all']:.1f} s",
        "watermark": "yes" if settings["watermark"] else "no",
        "sha256 of the video": _hash(told["sha256"]),
        "sha256 of speech": _hash(told["audio"]["sha256"]),
        "sha256 of person": _hash(told["reference"]["sha256"]),
        "model": _hash(told["model"]),
    }
    return _table(rows) + _whole(told)


def _people(people: list[dict[str, Any]]) -> str:
    """How many; of several which number each has and where it is."""
    return "1" if len(people) < 2 else ", ".join(f"{i}: {p['frames']} frames at x {p['x']:.2f}" for i, p in enumerate(people))


def _hash(digest: str) -> str:
    return digest[:16] + " …"


def _rate(fps: str) -> str:
    over, under = (int(n) for n in fps.split("/"))
    return f"{over / under:.5g}"


def _runs(runs: list[list[int]]) -> str:
    if not runs:
        return "none"
    shown = ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs[:8])
    return f"{sum(b - a + 1 for a, b in runs)} frames ({shown}{' …' if len(runs) > 8 else ''})"


def _table(rows: dict[str, Any]) -> str:
    cells = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    return f'<table class="dt-facts">{cells}</table>'


def _whole(told: dict[str, Any]) -> str:
    text = json.dumps(told, indent=2, ensure_ascii=False)
    return f'<details class="dt-log"><summary>Everything</summary><pre>{escape(text)}</pre></details>'


def _scores(job: Job) -> str:
    """The means of each video, metrics down and videos across; below it the report, where evaluate writes one."""
    told, own = job.facts["methods"], job.request["names"]
    columns = {title: told[title] for title in [*own, *(row for row in told if row not in own)]}
    names = list(dict.fromkeys(name for means in columns.values() for name in means))
    head = "".join(f"<th>{escape(title)}</th>" for title in columns)
    rows = "".join(
        f"<tr><th>{escape(name)}</th>" + "".join(f"<td>{_mean(means.get(name))}</td>" for means in columns.values()) + "</tr>"
        for name in names
    )
    table = f'<div class="dt-wide"><table class="dt-scores"><tr><th></th>{head}</tr>{rows}</table></div>'
    return table + "".join(_report(job, folder) for folder in job.facts["folders"])


def _mean(figure: Any) -> str:
    mean = figure.get("mean") if isinstance(figure, dict) else figure
    return f"{mean:.4g}" if isinstance(mean, int | float) else "–"


def _report(job: Job, folder: str) -> str:
    """evaluate's own page, shown without any right to reach out, and its figures."""
    of = "" if len(job.facts["folders"]) == 1 else f" of {job.request['names'][job.facts['folders'].index(folder)]}"
    figures = _download(job, f"scores-{folder}.json", f"scores.json{of}")
    if not job.path(f"{folder}/report.html").exists():
        return f'<div class="dt-links">{figures}</div><p class="dt-small">evaluate wrote no report page{escape(of)}.</p>'
    name = f"report-{folder}.html"
    frame = f'<iframe class="dt-report" sandbox="allow-scripts" src="{_link(job, name)}" title="report{escape(of)}"></iframe>'
    return f'<div class="dt-links">{_download(job, name, f"report{of}")}{figures}</div>{frame}'


def _mark(job: Job) -> str:
    mark, told = job.facts["watermark"], job.facts["metadata"]
    score = "no face to look at" if mark["score"] is None else f"score {mark['score']:.1f}; from {mark['threshold']:.0f} on it is no chance"
    verdict = "Made by difftalk" if job.facts["synthetic"] else "No sign of difftalk"
    rows = {"mark in the mouth": f"{'found' if mark['found'] else 'not found'} ({score})", "metadata": told["text"] or "nothing"}
    return f'<div class="dt-verdict dt-{"yes" if job.facts["synthetic"] else "no"}">{verdict}</div>{_table(rows)}'


# -- uploads


def person(told: dict[str, Any]) -> str:
    """The first frame, its faces, the mask and the landmarks, and what the file is."""
    faces, (width, height) = told["faces"], told["size"]
    said = [f"{width}x{height}"] + ([f"{told['fps']:.5g} fps"] if "fps" in told else ["photo"])
    count = f"{len(faces)} face{'s' if len(faces) != 1 else ''}"
    said.append(count if faces else "no face in the first frame; the rest is looked through later")
    return (
        f'<figure class="dt-person"><img src="{told["picture"]}" alt="first frame with the face, its landmarks and the mask">'
        f"<figcaption>{escape(', '.join(said))}</figcaption></figure>"
    )


def sound(told: dict[str, Any], link: str) -> str:
    """What the recording is, and a player for it."""
    seconds = f"{told['seconds']:.1f} s, " if told["seconds"] else ""
    said = f"{seconds}{told['codec']}, {told['sample_rate']} Hz, {told['channels']}"
    return f'<audio class="dt-sound" controls preload="metadata" src="{escape(link)}"></audio><p class="dt-small">{escape(said)}</p>'
