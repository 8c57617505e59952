"""Which denoiser should `compact` have? Candidates trained for the same time on one thread, beside what they cost.

    python -m tests.bench.denoisers WORK --vae VAE --minutes 6 [--rows w64 w96 w128] [--out FOLDER]    train and score
    python -m tests.bench.denoisers WORK --out FOLDER --table                                            the table

Held-out people: PSNR and LPIPS of the mouth's part and the lips' opening, with the right and with another's sound. Seconds a
frame are those of drawing it whole, latents of masked and reference frame, all steps and the decoder, eight frames at a time
on two threads.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from stages import train
from stages.artifacts import read_artifact
from stages.artifacts.files import write_json
from stages.dubbing.model import load_model
from stages.models.denoiser import DENOISERS
from stages.runtime import Runtime
from tests.bench.held_out import cases, draw, evaluate

ROWS = {
    "w32": ((32, 64, 96), 1), "w64": ((64, 96, 128), 1), "w96": ((96, 160, 224), 1), "w128": ((128, 192, 256), 1),
    "w128x2": ((128, 192, 256), 2),
}  # fmt: skip
STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--out", type=Path, help="by default WORK/denoisers")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--precision", default="no")
    parser.add_argument("--table", action="store_true")
    o = parser.parse_args()
    out = o.out or o.work / "denoisers"
    work, features = read_artifact(o.work, "clips"), read_artifact(o.work / "features", "features")
    if o.table:
        return table(out, work, features)
    torch.set_num_threads(1)
    for row in o.rows:
        DENOISERS["compact"] = (*ROWS[row], *DENOISERS["compact"][2:])
        config = train.Config(preset="compact", precision=o.precision)
        train.run(config, train.Inputs(o.work, vae=o.vae), out / row, Runtime(device="cpu", max_minutes=o.minutes))
        scores = evaluate(out / row, work, features, side="val", frames=o.frames, steps=STEPS)
        write_json(out / f"{row}.json", {name: vars(s) for name, s in scores.items()})


def table(out: Path, work: object, features: object) -> None:
    torch.set_num_threads(2)
    print(f"{'row':8} {'M':>6} {'GFLOP':>6} {'s/frame':>8} {'samples':>8} {'PSNR':>6} {'LPIPS':>7} {'opening':>8} {'wrong':>6}")
    for row in ROWS:
        if not (out / f"{row}.json").exists():
            continue
        renderer, _, _ = load_model(out / row, Runtime(device="cpu"))
        case = cases(renderer, work, features, side="val", frames=16)[0]
        draw(renderer, replace(case, **case.cut(8)), 1)
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            draw(renderer, case, STEPS)
            times.append((time.perf_counter() - begin) / len(case.truth))
        with FlopCounterMode(display=False) as counter:
            draw(renderer, replace(case, **case.cut(1)), 1)
        facts = read_artifact(out / row, "denoiser").manifest
        samples = facts["facts"]["steps"] * facts["config"]["batch"]
        scores = json.loads((out / f"{row}.json").read_text())
        made, wrong = scores["generated"], scores["wrong sound"]
        size = sum(p.numel() for p in renderer.denoiser.parameters()) / 1e6
        print(f"{row:8} {size:6.2f} {counter.get_total_flops() / 1e9:6.1f} {min(times):8.3f} {samples:8} {made['psnr']:6.2f} "
              f"{made['lpips']:7.4f} {made['opening']:8.3f} {wrong['opening']:6.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
