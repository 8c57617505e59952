"""How fast training is: our loop on cached latents against the same model fed by encoding on the fly, in one run.

    python -m tests.bench.train_speed WORK [--preset tiny] [--batch 24] [--steps 40] [--device auto] [--precision no] [--compile]

WORK holds clips, features and a first stage. Prints samples a second of both, their ratio, the share of the step that
waits for data, and on a known GPU the share of its data sheet's operations (MFU).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stages import train
from stages.artifacts import read_artifact
from stages.diffusion.render import Renderer
from stages.diffusion.schedule import Schedule
from stages.models.denoiser import Denoiser, DenoiserConfig
from stages.runtime import Runtime
from stages.training.checkpoint import load_first_stage
from stages.training.crops import ClipSet, split_clips
from stages.training.denoising import Batch, DenoisingTask


class OnTheFly(DenoisingTask):
    """The same batches, their latents encoded from the crops at every step, as a loop without a cache does."""

    def batch(self, step: int, indices: range, device: torch.device) -> Batch:
        cached = super().batch(step, indices, device)
        places = [self.train.draw(np.random.default_rng((step, i))) for i in indices]
        pictures = self.renderer.pictures(np.stack([self.data.crops[c][f] for c, f in places]))
        others = self.renderer.pictures(np.stack([self.data.crops[c][0] for c, f in places]))
        crop, encode = self.renderer.crop, self.renderer.encode
        condition = replace(cached.condition, masked=crop(self.renderer.encode_masked(pictures)), reference=crop(encode(others)))
        return Batch(crop(encode(pictures)), cached.noise, cached.t, condition)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="no")
    parser.add_argument("--compile", action="store_true")
    o = parser.parse_args()
    runtime = Runtime(device=o.device, compile=o.compile)
    config = train.Config(preset=o.preset, steps=o.steps, batch=o.batch, precision=o.precision, save_every=10**6, validate_every=10**6)
    with tempfile.TemporaryDirectory(prefix="difftalk-") as folder:
        root = Path(folder) / "denoiser"
        train.run(config, train.Inputs(o.work), root, runtime)
        rows = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
        logged = [r for r in rows if r["kind"] == "train"]
        described = json.loads((root / "config.json").read_text())
        shape = DenoiserConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in described["denoiser"].items()})
        speeds = {name: _speed(task, o) for name, task in _tasks(o, root, shape, described)}
    ratio = speeds["cached"] / speeds["on the fly"]
    print(f"cached {speeds['cached']:.1f} samples/s, encoded on the fly {speeds['on the fly']:.1f}: {ratio:.2f} times as fast")
    if logged:
        last = logged[-1]
        mfu = f", MFU {last['mfu']:.3f}" if "mfu" in last else ""
        print(f"the loop itself: {last['samples_per_second']:.1f} samples/s, waiting for data {last['data_share']:.1%} of a step{mfu}")


def _tasks(o: argparse.Namespace, root: Path, shape: DenoiserConfig, described: dict) -> list[tuple[str, DenoisingTask]]:
    work, features = read_artifact(o.work, "clips"), read_artifact(o.work / "features", "features")
    device = Runtime(device=o.device).torch_device()
    first_stage = load_first_stage(root / "first-stage").to(device)
    model = Denoiser(shape).to(device)
    renderer = Renderer(first_stage, model, Schedule(**described["schedule"]), described["mask"], described["resolution"])
    clips = split_clips(work, "train")
    sets = ClipSet(clips, "train on"), ClipSet(clips, "validate on")
    vae = read_artifact(o.work / f"vae-{described['resolution']}", "vae")
    latents = read_artifact(o.work / f"latents-{described['resolution']}-{described['mask']}-{vae.digest[:8]}", "latents")
    config = train.Config(preset=o.preset).resolved(described["resolution"])
    return [
        (name, cls(model, renderer, *sets, latents, features, config))
        for name, cls in (("cached", DenoisingTask), ("on the fly", OnTheFly))
    ]


def _speed(task: DenoisingTask, o: argparse.Namespace) -> float:
    """Samples a second of forward, backward and step, batches included."""
    device = next(task.model.parameters()).device
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-4)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(o.precision)
    task.model.train()
    begin = 0.0
    for step in range(o.steps + 3):
        if step == 3:
            begin = time.perf_counter()
        batch = task.batch(step, range(o.batch), device)
        with torch.autocast(device.type, dtype=kind, enabled=kind is not None):
            loss, _ = task.loss(task.model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    return o.batch * o.steps / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
