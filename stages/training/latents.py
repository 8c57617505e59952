"""The latent cache: z_0 and z_m of every stored frame in every look, window only, half precision, memory-mapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts import Artifact, Input, Store, Unit, Weight, new_array
from stages.diffusion.render import Renderer
from stages.faces.mask import MaskKind
from stages.runtime import Report, Runtime
from stages.training.augment import look

CODE = 2
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """What cached latents depend on besides the first stage."""

    mask: MaskKind
    resolution: int
    looks: int = 1
    """Of each clip: itself and looks - 1 others."""


def cache_latents(renderer: Renderer, work: Artifact, vae: Artifact, root: Path, runtime: Runtime, looks: int = 1) -> Report:
    """Make or complete the latents artifact `root`: per clip clean.npy and masked.npy, each (looks, T, C, h, w) f16."""
    config = LatentConfig(mask=renderer.kind, resolution=renderer.resolution, looks=looks)
    weights = [Weight("first stage", vae.digest, "as the vae artifact")]
    with Store(root, kind="latents", stage="train", code=CODE, config=config, runtime=runtime, weights=weights) as store:
        units = [Unit(c.id, (Input("clip", "clips", c.digest),), c) for c in work.clips.values()]
        todo = store.plan(units)
        with runtime.reporter.progress("encode latents", looks * sum(u.payload.facts["frames"] for u in todo), "frames") as bar:
            for unit in todo:
                with store.draft(unit) as draft:
                    crops = unit.payload.array("crops.npy")
                    files = [
                        new_array(draft.path / f"{name}.npy", np.float16, (looks, len(crops), *renderer.shape))
                        for name in ("clean", "masked")
                    ]
                    for number in range(looks):
                        other = look(unit.id, number)
                        for i in range(0, len(crops), BATCH):
                            part = crops[i : i + BATCH]
                            x = renderer.pictures(other.crops(part) if other else part)
                            for file, z in zip(files, (renderer.encode(x), renderer.encode_masked(x)), strict=True):
                                file[number, i : i + BATCH] = renderer.crop(z).cpu().numpy()
                            bar.advance(len(x))
                    for file in files:
                        file.flush()
        return store.seal()
