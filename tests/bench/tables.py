"""The paper's tables and figures for whatever data is given: checkpoints, settings and finished videos against one truth.

    python -m tests.bench.tables TRUTH --out FOLDER --table 3 "Ours=MODEL" "Wav2Lip=videos/wav2lip"
    python -m tests.bench.tables TRUTH --out FOLDER --table 1 "w/o=plain-MODEL" "w=MODEL" --fig5
    python -m tests.bench.tables TRUTH --out FOLDER --table 2 "w/o=MODEL,reference=fixed" "w=MODEL,reference=progressive"
    python -m tests.bench.tables TRUTH --out FOLDER --table conditions "A+L=al" "A+L+M=alm" "A+L+M+R=almr" --fig6

TRUTH is a folder of videos. A row is NAME=PLACE: a folder of videos with the truth's names, or a denoiser artifact, which then
draws every true video anew from its own sound with its own film as reference; KEY=VALUE after commas are settings of
`difftalk infer`. Rows of one table are scored together by `difftalk evaluate`. Writes FOLDER/tables.md (method | PSNR SSIM
LPIPS SyncNet), fig5.png (differences of adjacent frames) and fig6.png (frames side by side). Resumes where it was stopped.

The column SyncNet holds offset/confidence of SyncNet with `--syncnet syncnet_v2.model` alone; else the column is called
lips/sound and holds what takes its place, which is not to be compared with the paper's.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from stages import evaluate, infer
from stages.artifacts.read import read_clip
from stages.errors import InputError, UsageError
from stages.media.pairs import find_pairs
from stages.metrics.clip import STRIP_SIDE
from stages.runtime import Runtime

TITLES = {
    "1": "Table 1. The smooth audio: without (w/o) and with (w) the temporal filter",
    "2": "Table 2. Progressive inference: without (w/o) and with (w)",
    "3": "Table 3. Comparison of methods",
    "conditions": "Design of the conditions (A audio, L landmarks, M masked frame, R reference)",
}
COLUMNS = (("PSNR↑", "psnr", "{:.2f}"), ("SSIM↑", "ssim", "{:.3f}"), ("LPIPS↓", "lpips_alex", "{:.3f}"))
HEAT_SIDE = 256


def parse(text: str) -> tuple[str, Path, dict[str, str]]:
    """NAME=PLACE[,KEY=VALUE...]. Raises UsageError."""
    name, equals, rest = text.partition("=")
    place, *settings = rest.split(",")
    pairs = [s.partition("=") for s in settings]
    known = {f.name for f in fields(infer.Config)}
    if not (name and equals and place) or any(not e or k.replace("-", "_") not in known for k, e, _ in pairs):
        raise UsageError(f"{text}: expected NAME=PLACE[,SETTING=VALUE ...] with settings of `difftalk infer`")
    return name, Path(place), {k.replace("-", "_"): v for k, _, v in pairs}


def safe(name: str) -> str:
    """A row's name as evaluate takes it: A+L stays, w/o does not."""
    return name.replace("/", "-").replace(" ", "_")


def draw(model: Path, settings: dict[str, str], truth: Path, out: Path, runtime: Runtime) -> Path:
    """Every true video drawn anew: the folder of what was made. Videos that cannot be drawn are told and left out."""
    jobs = [pair.truth for pair in find_pairs(truth, truth) if pair.truth]
    head = ["audio", "ref", "out", *(key.replace("_", "-") for key in settings)]
    lines = ["\t".join([str(v.absolute()), str(v.absolute()), f"{v.stem}.mp4", *settings.values()]) for v in jobs]
    out.mkdir(parents=True, exist_ok=True)
    (out / "jobs.tsv").write_text("\n".join(["\t".join(head), *lines]) + "\n", encoding="utf-8")
    report = infer.run_list(infer.Config(), out / "jobs.tsv", model, runtime)
    for path, error in report.failed.items():
        print(f"left out: {path}: {error}")
    return out


def layout(title: str, rows: dict[str, str], scores: dict[str, Any], official: bool) -> str:
    """One table in the paper's layout; the best figure of a column is bold. `rows`: name in the table -> method."""
    methods = scores["methods"]
    heads = [head for head, _, _ in COLUMNS] + ["SyncNet↓↑" if official else "lips/sound"]
    means = {row: {key: methods[m].get(key, {}).get("mean") for _, key, _ in COLUMNS} for row, m in rows.items()}
    best = {}
    for head, key, _ in COLUMNS:
        known = [v[key] for v in means.values() if v[key] is not None]
        best[key] = (max if head.endswith("↑") else min)(known) if known else None
    lines = [f"**{title}**", "", f"| Method | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for row, method in {"GT": "ground_truth", **rows}.items():
        if row == "GT":
            cells = ["-"] * len(COLUMNS)
        else:
            found = [(means[row][key], form, means[row][key] == best[key]) for _, key, form in COLUMNS]
            cells = ["-" if v is None else f"**{form.format(v)}**" if first else form.format(v) for v, form, first in found]
        sync = [methods[method].get(key, {}).get("mean") for key in ("sync_offset", "sync_confidence")]
        cells.append("-" if None in sync else f"{round(sync[0])}/{sync[1]:.3f}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def labelled(rows: list[tuple[str, np.ndarray]], out: Path) -> None:
    """Pictures of one height below each other with their names on the left."""
    width, margin = max(picture.shape[1] for _, picture in rows), 150
    sheet = Image.new("RGB", (width + margin, sum(picture.shape[0] + 6 for _, picture in rows)), "white")
    y = 0
    for name, picture in rows:
        sheet.paste(Image.fromarray(picture), (margin, y))
        ImageDraw.Draw(sheet).text((8, y + picture.shape[0] // 2 - 8), name, fill="black", font_size=18)
        y += picture.shape[0] + 6
    sheet.save(out)


def folders(scores: dict[str, Any], root: Path, method: str) -> dict[str, Path]:
    """Clip -> its folder, of one method."""
    return {row["name"]: root / "clips" / row["clip"] for row in scores["clips"] if row["method"] == method and "metrics" in row}


def figure5(rows: dict[str, str], scores: dict[str, Any], root: Path, out: Path, most: int) -> None:
    """Differences of adjacent frames, a row a method and a column a clip, all on the truth's scale."""
    found = {name: folders(scores, root, method) for name, method in rows.items()}
    clips = sorted(set.intersection(*(set(f) for f in found.values())))[:most]
    pictures = {"GT": [read_clip(next(iter(found.values()))[c]).array("motion.npy")[1] for c in clips]}
    pictures |= {name: [read_clip(place[c]).array("motion.npy")[0] for c in clips] for name, place in found.items()}
    tops = [max(float(np.percentile(true, 99.5)), 1.0) for true in pictures["GT"]]

    def coloured(heat: np.ndarray, top: float) -> np.ndarray:
        level = cv2.resize(np.clip(heat / top * 255, 0, 255).astype(np.uint8), (HEAT_SIDE, HEAT_SIDE), interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)

    labelled([(n, np.concatenate([coloured(h, t) for h, t in zip(heats, tops, strict=True)], 1)) for n, heats in pictures.items()], out)


def figure6(rows: dict[str, str], scores: dict[str, Any], root: Path, out: Path) -> None:
    """Frames of the first clip that all have, the truth above the rows."""
    found = {name: folders(scores, root, method) for name, method in rows.items()}
    clip = min(set.intersection(*(set(f) for f in found.values())))
    strips = {name: np.asarray(Image.open(place[clip] / "strip.jpg").convert("RGB")) for name, place in found.items()}
    first = next(iter(strips.values()))
    labelled([("Ground truth", first[:STRIP_SIDE]), *((n, s[STRIP_SIDE:]) for n, s in strips.items())], out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", nargs="+", action="append", required=True, metavar=("1|2|3|conditions", "NAME=PLACE"))
    parser.add_argument("--fig5", action="store_true", help="from the first table")
    parser.add_argument("--fig6", action="store_true", help="from the last table")
    parser.add_argument("--metrics", default="psnr,ssim,lpips,mouth,jitter,sync")
    parser.add_argument("--syncnet", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=4, help="columns of Fig. 5")
    o = parser.parse_args()
    runtime, parts, made = Runtime(device=o.device), [], []
    for kind, *texts in o.table:
        if kind not in TITLES or not texts:
            raise SystemExit(f"--table {kind}: choose from {', '.join(TITLES)}, with at least one row NAME=PLACE")
        rows: dict[str, Path] = {}
        for name, place, settings in map(parse, texts):
            if not place.exists():
                raise InputError(f"{name}={place}: no such folder")
            drawn = (place / "artifact.json").exists()
            rows[name] = draw(place, settings, o.truth, o.out / "drawn" / f"{kind}-{safe(name)}", runtime) if drawn else place
        first, *others = rows
        inputs = evaluate.Inputs(rows[first], o.truth, {safe(name): rows[name] for name in others}, syncnet=o.syncnet)
        root = o.out / f"scores-{kind}"
        scores = evaluate.run(evaluate.Config(metrics=o.metrics, rows="ground_truth"), inputs, root, runtime).facts
        names = {name: evaluate.METHOD if name == first else safe(name) for name in rows}
        parts.append(layout(TITLES[kind], names, scores, o.syncnet is not None))
        made.append((names, scores, root))
    o.out.mkdir(parents=True, exist_ok=True)
    note = f"Clips: {len({c['name'] for c in made[0][1]['clips']})}. Sync: {made[0][1]['settings']['sync']}."
    (o.out / "tables.md").write_text("\n\n".join([*parts, note]) + "\n", encoding="utf-8")
    if o.fig5:
        figure5(*made[0], o.out / "fig5.png", o.clips)
    if o.fig6:
        figure6(*made[-1], o.out / "fig6.png")
    print((o.out / "tables.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
