"""Which of our changes help? The same budget for each row, scored on people whom no row ever saw (val side of the split).

    python -m tests.bench.ablation WORK --steps 600 --seeds 0 1 [--rows base single-token ...] [--preset tiny] [--widths 32 64 96]

Rows change one switch of the default design each; `a+l`, `a+l+m` and `picture` are the paper's own ablation (table 2: A+L,
A+L+M, A+L+M+R), for without a reference there is no difference to draw. Trainings resume; a finished row is not trained
again. A model that was trained on references in any pose is scored with one such reference for each clip, the others with
matched ones. The table gives mean and spread over the seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from stages import train
from stages.artifacts import read_artifact
from stages.artifacts.files import write_json
from stages.models.denoiser import DENOISERS
from stages.runtime import Runtime
from tests.bench.held_out import evaluate

ROWS: dict[str, dict[str, object]] = {
    "base": {},
    "single-token": {"context": "single"},
    "sampled-reference": {"reference": "sampled", "references": 2},
    "fixed-reference": {"reference": "fixed", "references": 2},
    "no-previous": {"previous_frame_share": 0.0},
    "no-audio-filter": {"audio_filter": False},
    "epsilon": {"prediction": "epsilon"},
    "flat-weight": {"mouth_weight": 1.0},
    "no-lips": {"lips": "off"},
    "picture": {"target": "picture"},
    "velocity": {"prediction": "v_prediction"},
    "channel-weight": {"channel_power": 1.0},
    "a+l": {"conditions": "a,l"},
    "a+l+m": {"conditions": "a,l,m"},
    "l+m+r": {"conditions": "l,m,r"},
}
METRICS = ("psnr", "lpips", "opening")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, help="by default WORK/ablation")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--features", type=Path)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--precision", default="no")
    parser.add_argument("--rate", type=float, help="learning rate")
    parser.add_argument("--widths", type=int, nargs="*", help="of the UNet: another size for a short budget")
    parser.add_argument("--base", nargs="*", default=[], choices=list(ROWS), help="rows whose changes all rows share")
    parser.add_argument("--threads", type=int)
    o = parser.parse_args()
    if o.threads:
        torch.set_num_threads(o.threads)
    if o.widths:
        DENOISERS[o.preset] = (tuple(o.widths), *DENOISERS[o.preset][1:])
    shared = {k: v for row in o.base for k, v in ROWS[row].items()}
    out = o.out or o.work / "ablation"
    work, features = read_artifact(o.work, "clips"), read_artifact(o.features or o.work / "features", "features")
    device = str(Runtime(device=o.device).torch_device())
    found: dict[str, list[dict[str, float]]] = {}
    for seed in o.seeds:
        for row in o.rows:
            root = out / f"{row}-{seed}"
            config = train.Config(
                preset=o.preset, steps=o.steps, batch=o.batch, seed=seed, save_every=o.steps, validate_every=o.steps,
                precision=o.precision, learning_rate=o.rate, **(shared | ROWS[row]),
            )  # fmt: skip
            train.run(config, train.Inputs(o.work, features=o.features, vae=o.vae), root, Runtime(device=o.device))
            kept, matched = root / "held-out.json", ROWS[row].get("reference", "matched") == "matched"
            key = {"frames": o.frames, "matched": matched, "model": read_artifact(root, "denoiser").digest}
            scores = json.loads(kept.read_text()) if kept.exists() else {}
            if scores.get("key") != key:
                table = evaluate(root, work, features, side="val", frames=o.frames, steps=10, device=device, matched=matched)
                scores = {"key": key, **{name: vars(s) for name, s in table.items()}}
                write_json(kept, scores)
            found.setdefault(row, []).append(scores["generated"])
            for name in ("first stage", "reference"):
                found[name] = [scores[name]]
            print(f"seed {seed} {row:16} " + " ".join(f"{m} {scores['generated'][m]:.4f}" for m in METRICS), flush=True)
    print(f"\n{'row':18}" + "".join(f"{m:>20}" for m in METRICS))
    for row, runs in found.items():
        cells = [np.array([r[m] for r in runs]) for m in METRICS]
        print(f"{row:18}" + "".join(f"{c.mean():12.4f} +-{np.ptp(c) / 2:6.4f}" for c in cells))


if __name__ == "__main__":
    main()
