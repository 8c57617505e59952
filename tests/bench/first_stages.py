"""Which first stage should `compact` have? Candidates trained for the same time on one thread, beside what they cost.

    python -m tests.bench.first_stages WORK --minutes 10 [--rows f8c8-patch2 ...] [--out FOLDER]     train (two may run at once)
    python -m tests.bench.first_stages WORK --table                                                  the table

Held-out people only: PSNR of the whole crop, PSNR and LPIPS of the mouth's part; then GFLOP and seconds (two threads) to
decode the view of one 256 px crop, and the numbers that the denoiser has to draw for its window.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from stages import train_vae
from stages.artifacts import read_artifact
from stages.faces.mask import view, window
from stages.metrics.lpips import load_lpips
from stages.models import vae
from stages.runtime import Runtime
from stages.training.checkpoint import load_first_stage
from stages.training.crops import ClipSet, split_clips
from tests.bench.held_out import mouth_of

# name            kind  widths              layers C  codes attention groups shortcut patch
ROWS = {
    "f8c8-tiny": ("kl", (16, 32, 64, 96), 1, 8, 0, False, 8, True, 1),
    "f8c8-wide": ("kl", (32, 64, 128, 160), 1, 8, 0, False, 8, True, 1),
    "f8c8-patch2": ("kl", (48, 96, 160), 1, 8, 0, False, 8, True, 2),
    "f8c16-patch2": ("kl", (48, 96, 160), 1, 16, 0, False, 8, True, 2),
    "f4c4-patch2": ("kl", (64, 128), 1, 4, 0, False, 8, True, 2),
    "f8c8-patch4": ("kl", (128, 192), 1, 8, 0, False, 8, True, 4),
}
FRAMES = 96


def train(row: str, work: Path, out: Path, minutes: float) -> None:
    vae.FIRST_STAGES["compact"] = ROWS[row]
    config = train_vae.Config(preset="compact", steps=10**6, batch=8, patch=64, save_every=200, validate_every=1000)
    train_vae.run(config, work, out / row, Runtime(device="cpu", max_minutes=minutes))


def table(work: Path, out: Path) -> None:
    held_out, lpips = ClipSet(split_clips(read_artifact(work, "clips"), "val"), "validate on"), load_lpips("alex", Runtime())
    crops = [c.array("crops.npy") for c in held_out.clips]
    truth = np.stack([np.asarray(crops[c][f]) for c, f in held_out.spread(FRAMES)])
    print(f"{'row':14} {'M':>6} {'steps':>6} {'PSNR':>7} {'mouth':>7} {'LPIPS':>7} {'GFLOP':>6} {'s':>6} {'numbers':>8}")
    for row in ROWS:
        if not (out / row / "config.json").exists():
            continue
        stage = load_first_stage(out / row).eval()
        made, shown = torch.from_numpy(truth).permute(0, 3, 1, 2).float() / 127.5 - 1, []
        with torch.no_grad():
            for x in made:
                shown.append(stage.decode(stage.encode(x[None])).clamp(-1, 1)[0])
        again = ((torch.stack(shown).permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
        a, b = mouth_of(again), mouth_of(truth)
        distance = float(np.concatenate([lpips.frames(a[i : i + 8], b[i : i + 8]) for i in range(0, len(a), 8)]).mean())
        cells = truth.shape[1] // stage.factor
        sizes = [[s.stop - s.start for s in part("lower-face", cells)] for part in (view, window)]
        z, numbers = torch.randn(1, stage.channels, *sizes[0]), stage.channels * sizes[1][0] * sizes[1][1]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            stage.decode(z)
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            with torch.no_grad():
                stage.decode(z)
            times.append(time.perf_counter() - begun)
        steps = read_artifact(out / row, "vae").manifest["facts"]["steps"]
        quality, mouth = _psnr(again, truth), _psnr(a, b)
        size = sum(p.numel() for p in stage.parameters()) / 1e6
        cost = counter.get_total_flops() / 1e9
        print(f"{row:14} {size:6.2f} {steps:6} {quality:7.2f} {mouth:7.2f} {distance:7.4f} {cost:6.1f} {min(times):6.3f} {numbers:8}")


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over frames."""
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255**2 / error)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, help="by default WORK/first-stages")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--table", action="store_true")
    o = parser.parse_args()
    out = o.out or o.work / "first-stages"
    if o.table:
        torch.set_num_threads(2)
        table(o.work, out)
        return
    torch.set_num_threads(1)
    for row in o.rows:
        train(row, o.work, out, o.minutes)


if __name__ == "__main__":
    main()
