"""The page: tables with intervals, then each clip with its strips, heatmaps and curves, then settings and hashes."""

from __future__ import annotations

import html
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stages import __version__
from stages.artifacts import write_atomic
from stages.artifacts.read import Clip, read_clip
from stages.metrics.names import BETTER, ROWS
from stages.metrics.report.plots import Line, heat_picture, picture, plot
from stages.metrics.report.style import colour, css
from stages.metrics.sync import offsets

GROUPS = {
    "Picture": ("psnr", "ssim", "lpips_alex", "lpips_vgg", "frame_psnr", "frame_ssim"),
    "Mouth": ("mouth_psnr", "mouth_ssim", "mouth_lpips_alex", "mouth_landmark_distance", "open_mouth_share"),
    "Lips and sound": ("lip_opening_correlation", "lip_opening_lag", "sync_offset", "sync_confidence", "sync_distance"),
    "Steadiness and identity": ("jitter", "flicker", "identity_distance"),
}
ARROWS = {"up": "↑", "down": "↓", "zero": "→ 0", "one": "→ 1", "truth": "≈ truth"}
SHORT = {
    "mouth_landmark_distance": "landmark distance", "lip_opening_correlation": "opening correlation", "lip_opening_lag": "opening lag",
    "open_mouth_share": "open mouth share", "identity_distance": "identity distance",
}  # fmt: skip
TELLS = {
    "ground_truth": "the truth against itself: the ceiling",
    "autoencoder": "its mouth through the model's first stage and back",
    "copy_baseline": "another mouth of the same film pasted in: what needs no model",
    "wrong_audio": "the model driven by another clip's sound: sync here has leaked from the picture",
    "silence": "the model driven by silence: mouths that open here have leaked",
}
MAIN = (
    "psnr", "ssim", "lpips_alex", "mouth_lpips_alex", "mouth_landmark_distance", "lip_opening_correlation", "sync_offset",
    "sync_confidence", "jitter",
)  # fmt: skip
"""Shown for every clip."""
PICTURED = 12
"""Clips that are shown; the figures of all are in the tables and in per_clip.jsonl."""
HOT = 99.5
"""Percentile of the true differences that heatmaps end at."""


Hashes = list[dict[str, str]]


def write_page(path: Path, scores: dict[str, Any], units: Path, weights: Hashes, inputs: dict[str, Hashes]) -> None:
    """Write report.html from the content of scores.json and the clips' folders below `units`."""
    methods = [name for name, means in scores["methods"].items() if means]
    body = [_head(scores), _problems(scores), "<h2>Scores</h2>", _legend(methods, all_of_them=True)]
    body += [_group(title, names, scores, methods) for title, names in GROUPS.items()]
    body.append(f'<p class="faint">Mean over clips; below it the 95 % interval ({html.escape(scores["settings"]["ci95"])}).</p>')
    body += _clips(scores, units, methods)
    body += [_per_clip(scores, methods), _settings(scores["settings"]), _hashes(weights, scores, inputs)]
    title = "difftalk evaluate"
    with write_atomic(path) as part:
        part.write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{css()}</style></head><body>{''.join(body)}</body></html>\n",
            encoding="utf-8",
        )


def _head(scores: dict[str, Any]) -> str:
    names = {row["name"] for row in scores["clips"]}
    scored = {row["name"] for row in scores["clips"] if "metrics" in row}
    return (
        f"<h1>Generated against true videos</h1><p class='faint'>difftalk {__version__}; {len(scored)} of {len(names)} clips scored, "
        f"{sum('metrics' in row for row in scores['clips'])} films in all.</p>"
    )


def _problems(scores: dict[str, Any]) -> str:
    said: dict[str, list[str]] = {}  # what one film lacks, every row of it lacks
    for row in scores["clips"]:
        for text in (row["error"],) if "error" in row else row.get("problems", ()):
            said.setdefault(text, []).append(row["method"])
    if not said:
        return ""
    items = "".join(f"<li>{html.escape(text)} <span class='faint'>({html.escape(', '.join(m))})</span></li>" for text, m in said.items())
    return f'<div class="problems"><b>Not scored, or not in full</b><ul>{items}</ul></div>'


def _key(methods: list[str], name: str) -> str:
    return f'<span class="key" style="background:{colour(methods.index(name))}"></span>'


def _legend(methods: list[str], *, all_of_them: bool = False, shown: set[str] | None = None) -> str:
    parts = []
    for name in methods:
        if shown is None or name in shown:
            told = f' <span class="faint">{TELLS[name]}</span>' if all_of_them and name in TELLS else ""
            parts.append(f"<span>{_key(methods, name)}{html.escape(name)}{told}</span>")
    return f'<div class="legend">{"".join(parts)}</div>'


def _group(title: str, names: tuple[str, ...], scores: dict[str, Any], methods: list[str]) -> str:
    names = tuple(name for name in names if any(name in scores["methods"][m] for m in methods))
    if not names:
        return ""
    heads = "".join(f"<th>{html.escape(SHORT.get(n, n.replace('_', ' ')))} {ARROWS[BETTER[n]]}</th>" for n in names)
    rivals = [m for m in methods if m not in ROWS]
    best = {n: _best(n, {m: scores["methods"][m][n]["mean"] for m in rivals if n in scores["methods"][m]}) for n in names}
    rows = []
    for m in methods:
        count = max(figure["n"] for figure in scores["methods"][m].values())
        cells = "".join(_cell(scores["methods"][m].get(n), m in best[n] and len(rivals) > 1, count) for n in names)
        told = f"{html.escape(m)}<small>{count} clip{'s' if count > 1 else ''}</small>"
        rows.append(f'<tr{" class=standing" if m in ROWS else ""}><td>{_key(methods, m)}{told}</td>{cells}</tr>')
    about = f"<p class='faint'>Sync is measured by: {html.escape(scores['settings']['sync'])}.</p>" if "sync_offset" in names else ""
    return f"<h3>{title}</h3>{about}{_table('<th>method</th>' + heads, rows)}"


def _table(heads: str, rows: list[str]) -> str:
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _best(name: str, means: dict[str, float | None]) -> set[str]:
    """The methods that are best by a metric; none where that cannot be said."""
    known = {method: mean for method, mean in means.items() if mean is not None}
    cost = {"up": lambda x: -x, "down": lambda x: x, "zero": abs, "one": lambda x: abs(x - 1)}.get(BETTER[name])
    if not (known and cost):
        return set()
    least = min(cost(mean) for mean in known.values())
    return {method for method, mean in known.items() if cost(mean) == least}


def _cell(figure: dict[str, Any] | None, best: bool, count: int) -> str:
    """Mean and interval; and how many clips have it, where that is not `count`, as of the others."""
    if figure is None or figure["mean"] is None:
        return "<td>–</td>"
    interval = figure["ci95"]
    below = f"<small>{interval[0]:.4g} to {interval[1]:.4g}</small>" if interval else ""
    below += f"<small>of {figure['n']}</small>" if figure["n"] != count else ""
    return f'<td{" class=best" if best else ""}>{figure["mean"]:.4g}{below}</td>'


def _clips(scores: dict[str, Any], units: Path, methods: list[str]) -> list[str]:
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in scores["clips"]:
        if "metrics" in row:
            by_name.setdefault(row["name"], []).append(row)
    shown = list(by_name)[:PICTURED]
    more = f" The first {PICTURED} of {len(by_name)} are shown." if len(by_name) > PICTURED else ""
    told = f"Strips: true frames above, the method's below. Heatmaps: mean difference of adjacent frames.{more}"
    parts = [f"<h2>Clips</h2><p class='faint'>{told}</p>"]
    for number, name in enumerate(shown):
        rows = {row["method"]: (row, read_clip(units / row["clip"])) for row in by_name[name]}
        opened = " open" if number == 0 else ""
        parts.append(f'<details class="clip"{opened}><summary>{html.escape(name)}</summary><div>{_clip(rows, methods)}</div></details>')
    return parts


def _clip(rows: dict[str, tuple[dict[str, Any], Clip]], methods: list[str]) -> str:
    ordered = [(m, *rows[m]) for m in methods if m in rows]
    notes = "".join(f"<p class='faint'>{html.escape(m)}: {html.escape(note)}</p>" for m, row, _ in ordered for note in row["notes"])
    left = f"<div><h3>Mouth opening, eye distances</h3><div class='scroll'>{_openings(ordered, methods)}</div></div>"
    right = f"<div><h3>Sync curve</h3><div class='scroll'>{_curves(ordered, methods)}</div></div>"
    return "".join([
        notes, _legend(methods, shown=set(rows)), f'<div class="plots">{left}{right}</div>', _heat(ordered, methods),
        *(_strip(m, clip, methods) for m, _, clip in ordered if m != "ground_truth"),
    ])  # fmt: skip


Ordered = list[tuple[str, dict[str, Any], Clip]]


def _openings(ordered: Ordered, methods: list[str]) -> str:
    lines, truth = [], Line(np.zeros(0), np.zeros(0), "", "truth", truth=True)
    for m, _, clip in ordered:
        table, columns = clip.array("per_frame.npy"), clip.facts["columns"]
        seconds = np.arange(len(table)) / float(Fraction(clip.facts["fps"]))
        if m != "ground_truth":
            lines.append(Line(seconds, np.asarray(table[:, columns.index("opening")]), colour(methods.index(m)), m))
        if len(seconds) > len(truth.x):  # some rows are shorter
            truth = Line(seconds, np.asarray(table[:, columns.index("opening_true")]), "", "truth", truth=True)
    return plot([truth, *lines], x_label="seconds (broad line: truth)", y_label="mouth opening", zero=True)


def _curves(ordered: Ordered, methods: list[str]) -> str:
    lines = [
        Line(offsets().astype(float)[::-1], np.array(clip.array("sync.npy"), np.float64)[::-1], colour(methods.index(m)), m)
        for m, _, clip in ordered
        if (clip.path / "sync.npy").is_file()
    ]
    return plot(lines, x_label="offset in 25 fps frames", y_label="distance", size=(380, 250), mark=0.0)


def _heat(ordered: Ordered, methods: list[str]) -> str:
    maps = {m: np.asarray(clip.array("motion.npy")) for m, _, clip in ordered if (clip.path / "motion.npy").is_file()}
    if not maps or not any(found.any() for found in maps.values()):
        return ""
    true = next(iter(maps.values()))[1]
    top = max(float(np.percentile(true, HOT)), 1.0)
    pictures = [("truth", true), *((m, found[0]) for m, found in maps.items() if m != "ground_truth")]
    figures = "".join(
        f'<figure><img alt="adjacent-frame differences of {html.escape(m)}" src="{heat_picture(heat, top)}"><figcaption>'
        f"{_key(methods, m) if m in methods else ''}{html.escape(m)}</figcaption></figure>"
        for m, heat in pictures
    )
    return f"<h3>Adjacent-frame differences, 0 to {top:.1f} grey levels</h3><div class='maps'>{figures}</div>"


def _strip(method: str, clip: Clip, methods: list[str]) -> str:
    return (
        f"<h3>{_key(methods, method)}{html.escape(method)}</h3><div class='scroll strip'>"
        f'<img alt="true frames above, {html.escape(method)} below" src="{picture(clip.path / "strip.jpg")}"></div>'
    )


def _per_clip(scores: dict[str, Any], methods: list[str]) -> str:
    """Every clip's main figures, so that no mean hides one."""
    chosen = [name for name in MAIN if any(name in scores["methods"][m] for m in methods)]
    heads = "".join(f"<th>{html.escape(SHORT.get(n, n.replace('_', ' ')))}</th>" for n in chosen)
    rows = []
    for row in scores["clips"]:
        if "metrics" in row and row["method"] not in ("ground_truth",):
            cells = "".join(f"<td>{row['metrics'][n]:.4g}</td>" if n in row["metrics"] else "<td>–</td>" for n in chosen)
            rows.append(f"<tr><td>{html.escape(row['name'])}</td><td>{html.escape(row['method'])}</td>{cells}</tr>")
    shown = _table("<th>clip</th><th>method</th>" + heads, rows)
    return f"<details class='clip'><summary>All clips, figure by figure</summary><div>{shown}</div></details>"


def _settings(settings: dict[str, Any]) -> str:
    rows = "".join(f"<dt>{html.escape(k.replace('_', ' '))}</dt><dd>{html.escape(_say(v))}</dd>" for k, v in settings.items())
    return f"<h2>Settings</h2><dl>{rows}</dl>"


def _say(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{k}: {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _hashes(weights: Hashes, scores: dict[str, Any], inputs: dict[str, Hashes]) -> str:
    used = "".join(
        f"<dt>{html.escape(w['role'])}</dt><dd><code>{html.escape(w['sha256'])}</code> {html.escape(w['licence'])}</dd>" for w in weights
    )
    films = "".join(
        f"<dt>{html.escape(row['method'])}: {html.escape(row['name'])}</dt><dd>"
        + "<br>".join(f"{html.escape(i['role'])} <code>{html.escape(i['digest'])}</code>" for i in inputs.get(row["clip"], ()))
        + "</dd>"
        for row in scores["clips"]
    )
    return (
        f"<h2>Hashes</h2><dl>{used}</dl><details class='clip'><summary>Films, sha256</summary><div><dl>{films}</dl></div></details>"
        f"<p class='faint'>Everything in one number of their own: <code>{html.escape(_number(scores))}</code></p>"
    )


def _number(scores: dict[str, Any]) -> str:
    from stages.artifacts import digest_json

    return digest_json(json.loads(json.dumps({k: scores[k] for k in ("methods", "settings")})))
