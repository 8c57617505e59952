"""The latent cache: z_0, z_m and z_r of every stored frame in every look, window only, half precision, memory-mapped.

A frame's references are frames far away in time and near in pose, turned to its own pose, so they are the frame's and not
to be had from another frame's z_0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts import Artifact, Clip, Input, Store, Unit, Weight, new_array
from stages.diffusion.render import Renderer
from stages.faces import apart, condition_points, turn_to
from stages.faces.mask import MaskKind
from stages.runtime import Progress, Report, Runtime
from stages.training.augment import Look, look
from stages.training.order import generator

CODE = 3
BATCH = 8
REFERENCE_GAP = 60
"""Frames between target and reference (paper 3.2), or as far as the clip allows."""
MATCHES = 8
"""Frames that a reference is the one nearest in pose of."""
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


def cache_latents(
    renderer: Renderer, work: Artifact, vae: Artifact, root: Path, runtime: Runtime, looks: int = 1, references: int = 0
) -> Report:
    """Make or complete the latents artifact `root`.

    Per clip clean.npy and masked.npy, each (looks, T, C, h, w) f16, and reference.npy (looks, references, T, C, h, w) f16.
    """
    config = LatentConfig(mask=renderer.kind, resolution=renderer.resolution, looks=looks, references=references)
    weights = [Weight("first stage", vae.digest, "as the vae artifact")]
    with Store(root, kind="latents", stage="train", code=CODE, config=config, runtime=runtime, weights=weights, wait=True) as store:
        units = [Unit(c.id, (Input("clip", "clips", c.digest),), c) for c in work.clips.values()]
        todo = store.plan(units)
        frames = sum(u.payload.facts["frames"] for u in todo)
        with runtime.reporter.progress("encode latents", looks * frames, "frames") as bar:
            for unit in todo:
                with store.draft(unit) as draft:
                    _encode(renderer, unit.payload, draft.path, config, bar)
        return store.seal()


def _encode(renderer: Renderer, clip: Clip, folder: Path, config: LatentConfig, bar: Progress) -> None:
    crops, looks = clip.array("crops.npy"), config.looks
    points = condition_points(np.asarray(clip.array("align.npy")), np.asarray(clip.array("landmarks.npy")))
    shapes = {"clean": (looks,), "masked": (looks,)} | ({"reference": (looks, config.references)} if config.references else {})
    files = {n: new_array(folder / f"{n}.npy", np.float16, (*s, len(crops), *renderer.shape)) for n, s in shapes.items()}
    for number in range(looks):
        other = look(clip.id, number)

        def latents(pictures: np.ndarray, masked: bool = False, other: Look | None = other) -> np.ndarray:
            x = renderer.pictures(other.crops(pictures) if other else pictures)
            return renderer.crop(renderer.encode_masked(x) if masked else renderer.encode(x)).cpu().numpy()

        for i in range(0, len(crops), BATCH):
            part = crops[i : i + BATCH]
            at = slice(i, i + len(part))
            files["clean"][number, at], files["masked"][number, at] = latents(part), latents(part, masked=True)
            for k in range(config.references):
                turned = [_turned(crops, points, clip.id, f, k, number) for f in range(i, i + len(part))]
                files["reference"][number, k, at] = latents(np.stack(turned))
            bar.advance(len(part))
    for file in files.values():
        file.flush()


def _turned(crops: np.ndarray, points: np.ndarray, clip: str, frame: int, number: int, look: int) -> np.ndarray:
    """One of a frame's references: of a few frames far away the nearest in pose, turned to the frame's pose."""
    rng = generator(REFERENCES, look, number, frame, *(ord(c) for c in clip))
    drawn = [far_frame(rng, len(crops), frame) for _ in range(MATCHES)]
    best = min(drawn, key=lambda f: float(apart(points[f], points[frame])))
    return turn_to(crops[best], points[best], points[frame])


def far_frame(rng: np.random.Generator, count: int, frame: int) -> int:
    """A frame at least 60 away from `frame`; in a short clip, one of the farther half."""
    gap = min(REFERENCE_GAP, max(1, (count - 1) // 2))
    before, after = max(0, frame - gap + 1), max(0, count - frame - gap)
    if before + after == 0:
        return frame  # a single frame is its own reference
    pick = int(rng.integers(before + after))
    return pick if pick < before else frame + gap + pick - before
