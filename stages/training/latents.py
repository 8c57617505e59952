"""The latent cache: z_0, z_m and z_r of every stored frame in every look, window only, half precision, memory-mapped.

A frame's references are frames far away in time and near in pose, turned to its own pose (and, where the model is told what
shape the lips are to take, with these lips), so they are the frame's and not to be had from another frame's z_0."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from stages.artifacts import Artifact, Clip, Draft, Input, Store, Unit, Weight, new_array, read_artifact, run_units
from stages.diffusion.render import Coder
from stages.errors import DiffTalkError
from stages.faces import LIPS, apart, condition_points, habits, lip_shape, lips_apart, mouth_points, turn_to
from stages.faces.mask import MaskKind
from stages.runtime import Needs, Report, Runtime
from stages.training.augment import Look, look
from stages.training.order import generator

CODE = 6
NEEDS = Needs(cpus=1, gpus=0.25)
"""Turning the references keeps a core busy while the GPU waits: several workers share one."""
BATCH = 8
REFERENCE_GAP = 60
"""Frames between target and reference (paper 3.2), or as far as the clip allows."""
MATCHES = 24, 96
"""Frames that a reference is the one nearest in pose (and lips) of, for every other frame: few, so that the network learns to
make good what the reference lacks, and as many as infer has, so that it does not expect worse ones."""
TOLD_NOISE = 0.25
"""How far the lips that a reference is given are off the true ones, in the person's deviations: what is heard is off as well."""
REFERENCES = 0x5EF


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """What cached latents depend on besides the first stage."""

    mask: MaskKind
    resolution: int
    looks: int = 1
    """Of each clip: itself and looks - 1 others."""
    references: int = 0
    """Of each frame."""
    lips: bool = False
    """Whether the references' lips take about the frame's shape."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic of the first stage."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to encode one clip."""

    clip: Clip
    config: LatentConfig
    vae: Path
    digest: str
    """The first stage's."""
    device: str
    threads: int


def cache_latents(
    coder: Coder, work: Artifact, vae: Artifact, root: Path, runtime: Runtime, **settings: Any
) -> Report:
    """Make or complete the latents artifact `root`; other processes than this one open their own `coder`, from `vae`.

    Per clip clean.npy and masked.npy, each (looks, T, C, h, w) f16, reference.npy (looks, references, T, C, h, w) f16, and with
    `lips` lips.npy (looks, references, T, 4) f32: the shape that each reference's lips were given. `settings`: LatentConfig's.
    """
    config = LatentConfig(mask=coder.kind, resolution=coder.resolution, **settings)
    weights = [Weight("first stage", vae.digest, "as the vae artifact")]
    threads = runtime.threads_of_a_worker(NEEDS)
    job = functools.partial(Job, config=config, vae=vae.root, digest=vae.digest, device=runtime.device, threads=threads)
    with Store(root, kind="latents", stage="train", code=CODE, config=config, runtime=runtime, weights=weights, wait=True) as store:
        todo = store.plan([Unit(c.id, (Input("clip", "clips", c.digest),), job(clip=c)) for c in work.clips.values()])
        task = encode_clip if runtime.elsewhere else functools.partial(encode_clip, coder=coder)
        run_units(store, todo, task, title="encode latents", unit="frames", size=_frames, needs=NEEDS)
        return store.seal()


def _frames(unit: Unit) -> float:
    job: Job = unit.payload
    return job.config.looks * job.clip.facts["frames"]


@functools.lru_cache(maxsize=1)
def _worker_coder(vae: Path, digest: str, mask: MaskKind, resolution: int, device: str, threads: int) -> Coder:
    """The first stage of a worker process, opened once for all its clips."""
    from stages.training.checkpoint import load_first_stage

    if read_artifact(vae, "vae").digest != digest:
        raise DiffTalkError(f"{vae} was replaced during the run; run the same command again")
    if threads:
        torch.set_num_threads(threads)
    return Coder(load_first_stage(vae).to(Runtime(device=device).torch_device()), mask, resolution)


def encode_clip(job: Job, draft: Draft, tick: Callable[[float], None], coder: Coder | None = None) -> None:
    """Encode one clip's crops, in every look, into draft.path."""
    clip, config, folder = job.clip, job.config, draft.path
    coder = coder or _worker_coder(job.vae, job.digest, config.mask, config.resolution, job.device, job.threads)
    crops, looks = clip.array("crops.npy"), config.looks
    turn, half = Turn(clip, config.lips), torch.float16 if config.precision == "fp16" else torch.bfloat16
    shapes = {"clean": (looks,), "masked": (looks,)} | ({"reference": (looks, config.references)} if config.references else {})
    files = {n: new_array(folder / f"{n}.npy", np.float16, (*s, len(crops), *coder.shape)) for n, s in shapes.items()}
    if config.lips:
        files["lips"] = new_array(folder / "lips.npy", np.float32, (looks, config.references, len(crops), LIPS))
    for number in range(looks):
        other = look(clip.id, number)

        def latents(pictures: np.ndarray, masked: bool = False, other: Look | None = other) -> np.ndarray:
            x = coder.pictures(other.crops(pictures) if other else pictures)
            with torch.autocast(x.device.type, half, enabled=config.precision != "no"):
                z = coder.encode_masked(x) if masked else coder.encode(x)
            return coder.crop(z).cpu().numpy()

        for i in range(0, len(crops), BATCH):
            part = crops[i : i + BATCH]
            at = slice(i, i + len(part))
            files["clean"][number, at], files["masked"][number, at] = latents(part), latents(part, masked=True)
            for k in range(config.references):
                turned = [turn(f, k, number) for f in range(i, i + len(part))]
                files["reference"][number, k, at] = latents(np.stack([picture for picture, _ in turned]))
                if config.lips:
                    files["lips"][number, k, at] = np.stack([told for _, told in turned])
            tick(len(part))
    for file in files.values():
        file.flush()


class Turn:
    """A clip's frames as references of other frames."""

    def __init__(self, clip: Clip, lips: bool):
        self.id, self.crops, self.lips = clip.id, clip.array("crops.npy"), lips
        place = np.asarray(clip.array("align.npy")), np.asarray(clip.array("landmarks.npy"))
        self.points, self.mouths, self.shapes = condition_points(*place), mouth_points(*place), lip_shape(*place)
        self.off = TOLD_NOISE * habits(self.shapes)[1]

    def __call__(self, frame: int, number: int, look: int) -> tuple[np.ndarray, np.ndarray]:
        """One of a frame's references (R, R, 3) u8, and the shape that its lips were given (4,).

        Of some frames far away the nearest in pose and lips, turned to the frame's pose and to about its lips.
        """
        rng = generator(REFERENCES, look, number, frame, *(ord(c) for c in self.id))
        told = self.shapes[frame] + self.off * rng.standard_normal(LIPS, np.float32)
        drawn = np.array([far_frame(rng, len(self.crops), frame) for _ in range(MATCHES[(number + frame) % 2])])
        cost = apart(self.points[drawn], self.points[frame]) + (lips_apart(self.shapes[drawn], told) if self.lips else 0)
        best = int(drawn[cost.argmin()])
        mouth = (self.mouths[best], told) if self.lips else ()
        return turn_to(self.crops[best], self.points[best], self.points[frame], *mouth), told


def far_frame(rng: np.random.Generator, count: int, frame: int) -> int:
    """A frame at least 60 away from `frame`; in a short clip, one of the farther half."""
    gap = min(REFERENCE_GAP, max(1, (count - 1) // 2))
    before, after = max(0, frame - gap + 1), max(0, count - frame - gap)
    if before + after == 0:
        return frame  # a single frame is its own reference
    pick = int(rng.integers(before + after))
    return pick if pick < before else frame + gap + pick - before
