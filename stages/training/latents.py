"""The latent cache: z_0 and z_m of every stored frame, window only, half precision, memory-mapped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts import Artifact, Input, Store, Unit, Weight, new_array
from stages.diffusion.render import Renderer
from stages.faces.mask import MaskKind
from stages.runtime import Report, Runtime

CODE = 1
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """What cached latents depend on besides the first stage."""

    mask: MaskKind
    resolution: int


def cache_latents(renderer: Renderer, work: Artifact, vae: Artifact, root: Path, runtime: Runtime) -> Report:
    """Make or complete the latents artifact `root`: per clip clean.npy and masked.npy, each (T, C, h, w) f16."""
    config = LatentConfig(mask=renderer.kind, resolution=renderer.resolution)
    weights = [Weight("first stage", vae.digest, "as the vae artifact")]
    with Store(root, kind="latents", stage="train", code=CODE, config=config, runtime=runtime, weights=weights) as store:
        units = [Unit(c.id, (Input("clip", "clips", c.digest),), c) for c in work.clips.values()]
        todo = store.plan(units)
        with runtime.reporter.progress("encode latents", sum(u.payload.facts["frames"] for u in todo), "frames") as bar:
            for unit in todo:
                with store.draft(unit) as draft:
                    crops = unit.payload.array("crops.npy")
                    files = [
                        new_array(draft.path / f"{name}.npy", np.float16, (len(crops), *renderer.shape))
                        for name in ("clean", "masked")
                    ]
                    for i in range(0, len(crops), BATCH):
                        x = renderer.pictures(crops[i : i + BATCH])
                        for file, z in zip(files, (renderer.encode(x), renderer.encode_masked(x)), strict=True):
                            file[i : i + BATCH] = renderer.crop(z).cpu().numpy()
                        bar.advance(len(x))
                    for file in files:
                        file.flush()
        return store.seal()
