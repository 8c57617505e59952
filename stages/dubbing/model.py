"""Opening a denoiser artifact for use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.artifacts import Artifact, read_artifact
from stages.errors import ArtifactError, InputError
from stages.runtime import Runtime

if TYPE_CHECKING:
    from stages.diffusion.render import Renderer

BUNDLED = Path(__file__).parents[1] / "pretrained" / "denoiser-256"


def find_model(path: Path | None) -> Artifact:
    """The denoiser artifact at `path`, by default the bundled one. Raises InputError or ArtifactError when it is not there."""
    if path is None and not BUNDLED.exists():
        raise InputError("no checkpoint ships with this version: give one with --model DIR, made by `difftalk train`")
    return read_artifact(Path(path or BUNDLED), "denoiser")


def load_model(path: Path | None, runtime: Runtime) -> tuple[Renderer, dict[str, Any], str]:
    """(renderer on the device, the model's config.json, the model's digest)."""
    import torch

    from stages.diffusion.render import Renderer
    from stages.diffusion.schedule import Schedule
    from stages.models.denoiser import Denoiser, DenoiserConfig
    from stages.training.checkpoint import load_first_stage, load_weights

    artifact = find_model(path)
    try:
        described = json.loads((artifact.root / "config.json").read_text(encoding="utf-8"))
        shape = {k: tuple(v) if isinstance(v, list) else v for k, v in described["denoiser"].items()}
        denoiser, schedule = Denoiser(DenoiserConfig(**shape)), Schedule(**described["schedule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{artifact.root / 'config.json'} cannot be used ({error}); train the model again") from error
    load_weights(artifact.root / "model.safetensors", denoiser)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    device = runtime.torch_device()
    first_stage = load_first_stage(artifact.root / "first-stage").to(device)
    renderer = Renderer(first_stage, denoiser.to(device), schedule, described["mask"], described["resolution"])
    if runtime.dtype != "float32" or runtime.compile or device.type == "cuda":
        renderer.use(getattr(torch, runtime.dtype), compiled=runtime.compile)
    return renderer, described, artifact.digest
