"""Does training hold still in memory? Resident memory over steps on a made set far larger than what it may hold.

    python -m tests.bench.train_memory FOLDER [--clips 200] [--frames 1500] [--steps 2000] [--batch 24]

FOLDER takes about 6 GB (training reads no crops: there are none) and is kept: a second run trains anew on it. Prints, every tenth of
the way, the resident memory in MiB: all of it, what is the process's own, and what is pages of the mapped files; then the
share of a step that waits for data.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import torch

from stages import train
from stages.artifacts import Artifact, Input, Store, Unit, read_artifact
from stages.diffusion.render import Renderer
from stages.diffusion.schedule import Schedule
from stages.models.denoiser import Denoiser, denoiser_config
from stages.models.vae import build_first_stage, first_stage_config
from stages.preprocess import Config
from stages.runtime import Runtime
from stages.speech.windows import neighbours
from stages.training.crops import ClipSet, split_clips
from stages.training.denoising import Batch, DenoisingTask
from stages.training.latents import LatentConfig
from stages.training.loop import LoopConfig, fit

RESOLUTION, FEATURES = 256, 29


class Watched(DenoisingTask):
    """Says how much memory is resident as it goes."""

    every = 1

    def batch(self, step: int, indices: range, device: torch.device) -> Batch:
        if step % self.every == 0:
            status = Path("/proc/self/status").read_text()
            sizes = [int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "RssAnon", "RssFile")]
            print(f"step {step:6}: resident {sizes[0]:8.1f}  own {sizes[1]:8.1f}  mapped {sizes[2]:8.1f} MiB", flush=True)
        return super().batch(step, indices, device)

    def validate(self, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        return {}

    def sheet(self, model: torch.nn.Module, device: torch.device) -> None:
        return None


def make(root: Path, clips: int, frames: int, shape: tuple[int, int, int]) -> tuple[Artifact, Artifact, Artifact]:
    """Clips, features and latents artifacts of noise."""
    rng, ids = np.random.default_rng(0), [f"made-{i:08x}" for i in range(clips)]

    def store(name: str, kind: str, config: object, stage: str) -> Store:
        return Store(root / name, kind=kind, stage=stage, code=1, config=config, runtime=Runtime())

    with store("", "clips", Config(resolution=RESOLUTION), "preprocess") as made:
        for unit in made.plan([Unit(id, (Input("video", "file", id),)) for id in ids]):
            with made.draft(unit) as draft:
                np.save(draft.path / "crops.npy", np.zeros((frames, 1, 1, 3), np.uint8))
                np.save(draft.path / "segment.npy", np.zeros(frames, np.int32))
                np.save(draft.path / "landmarks.npy", rng.uniform(0, 1, (frames, 68, 2)).astype(np.float32))
                np.save(draft.path / "align.npy", np.tile(np.eye(2, 3, dtype=np.float32), (frames, 1, 1)))
                draft.facts |= {"frames": frames, "frames_total": frames, "fps": "25/1"}
        split = {id: "val" if i < clips // 10 else "train" for i, id in enumerate(ids)}
        made.seal(facts={"identity": {id: id for id in ids}, "split": split})
    units = [Unit(id, (Input("clip", "clips", id),)) for id in ids]
    with store("features", "features", Config(), "extract-audio") as made:
        for unit in made.plan(units):
            with made.draft(unit) as draft:
                np.save(draft.path / "audio.npy", rng.standard_normal((frames, 16, FEATURES), np.float32))
                np.save(draft.path / "neighbours.npy", neighbours(frames, 25))
        made.seal(facts={"features": FEATURES})
    with store("latents", "latents", LatentConfig(mask="lower-face", resolution=RESOLUTION, references=1), "train") as made:
        for unit in made.plan(units):
            with made.draft(unit) as draft:
                for name, axes in (("clean", (1,)), ("masked", (1,)), ("reference", (1, 1))):
                    np.save(draft.path / f"{name}.npy", rng.standard_normal((*axes, frames, *shape), np.float32).astype(np.float16))
        made.seal()
    return read_artifact(root, "clips"), read_artifact(root / "features", "features"), read_artifact(root / "latents", "latents")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--frames", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=24)
    o = parser.parse_args()
    first_stage = build_first_stage(first_stage_config("tiny", RESOLUTION))
    model = Denoiser(denoiser_config("tiny", latent_channels=first_stage.channels, audio_features=FEATURES, widths=(32, 32, 64)))
    renderer = Renderer(first_stage, model, Schedule(), "lower-face", RESOLUTION)
    work, features, latents = make(o.folder, o.clips, o.frames, renderer.shape)
    config = train.Config(steps=o.steps, batch=o.batch, save_every=o.steps, validate_every=o.steps).resolved(RESOLUTION)
    sets = (ClipSet(split_clips(work, side), "use") for side in ("train", "val"))
    task = Watched(model, renderer, *sets, latents, features, config)
    task.every = max(1, o.steps // 10)
    out = o.folder / "training"
    for old in out.glob("log.jsonl"):
        old.unlink()
    fit(task, LoopConfig.of(config), out, Runtime(device="cpu", force=True), "bench")
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    shares = [r["data_share"] for r in rows if "data_share" in r]
    print(f"waiting for data: {np.mean(shares):.1%} of a step, {np.max(shares):.1%} in the worst 50 steps")


if __name__ == "__main__":
    main()
