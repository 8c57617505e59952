"""export: a trained model -> the same without its training states, in half precision: what one gives away (DESIGN, walk 4)."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stages.artifacts import read_artifact, write_json
from stages.artifacts.files import make_folder, remove_tree, replace_tree
from stages.artifacts.fingerprint import digest_json, file_digest
from stages.errors import ArtifactError, UsageError
from stages.runtime import Report, Runtime

FIRST_STAGE = "first-stage"


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the weights are written."""

    precision: Literal["fp16", "fp32"] = "fp16"
    """Of the stored weights: fp16 halves the files, and changes a prediction by less than its last bit of 8; fp32 keeps all."""
    steps: int | None = None
    """Denoising steps that infer is to take by default with this model."""
    strength: float | None = None
    """Share of the noise that infer is to start from by default with this model."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"--steps {self.steps}: must be at least 1")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise UsageError(f"--strength {self.strength}: must be above 0 and at most 1")


def run(config: Config, model: Path, out: Path, runtime: Runtime, vae: Path | None = None) -> Report:
    """Write the denoiser artifact `model` to the folder `out`, with the first stage `vae` instead of its own if one is given.

    Raises ArtifactError when `model` is no whole denoiser, or the other first stage has other latents, UsageError when `out` is taken.
    """
    artifact, out = read_artifact(Path(model), "denoiser"), Path(out)
    if out.exists():
        raise UsageError(f"{out}: exists; choose another --out, or remove it")
    first = read_artifact(Path(vae) if vae else artifact.root / FIRST_STAGE, "vae")
    if vae:
        _check_latents(artifact.root / FIRST_STAGE, first.root)
    if runtime.dry_run:
        return Report(out=out, skipped=1)
    built = out.parent / f".tmp-{out.name}-{os.getpid()}"
    try:
        _copy(first.root, first.manifest, built / FIRST_STAGE, ("model.safetensors", "config.json"), config)
        names = ("model.safetensors", "config.json", f"{FIRST_STAGE}/model.safetensors", f"{FIRST_STAGE}/config.json")
        _copy(artifact.root, artifact.manifest, built, names, config)
        make_folder(out.parent)
        replace_tree(built, out, out.parent / f".tmp-{out.name}-{os.getpid()}-trash")
    finally:
        remove_tree(built)
    size = sum(f.stat().st_size for f in out.rglob("*.safetensors"))
    runtime.reporter.log(f"{out}: {size / 1e6:.1f} MB of weights")
    return Report(out=out, done=1, facts={"bytes": size})


def _check_latents(own: Path, other: Path) -> None:
    """A decoder may have learned on (train-vae --part decoder), but the latents must be those that the denoiser draws."""
    mine, theirs = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (own, other))
    for name in ("mean", "std", "first_stage"):
        if mine[name] != theirs[name]:
            raise ArtifactError(f"{other}: its latents have another {name} than {own}; only `train-vae --part decoder` keeps them")


def _copy(source: Path, manifest: dict[str, Any], target: Path, names: tuple[str, ...], config: Config) -> None:
    """Weights and descriptions of one artifact, under a manifest that lists them as they are now."""
    import torch
    from safetensors.torch import load_file, save_file

    make_folder(target)
    for name in names:
        if (target / name).exists():
            continue  # the first stage brings its own
        if name == "config.json" and manifest["kind"] == "denoiser":
            described = json.loads((source / name).read_text(encoding="utf-8"))
            own = {k: v for k, v in (("steps", config.steps), ("strength", config.strength)) if v is not None}
            write_json(target / name, described | {"sampling": described.get("sampling", {}) | own})
            continue
        if not name.endswith(".safetensors"):
            shutil.copyfile(source / name, target / name)
            continue
        half = config.precision == "fp16"
        tensors = {k: v.half() if half and v.dtype == torch.float32 else v for k, v in load_file(source / name).items()}
        save_file(tensors, target / name)
        os.chmod(target / name, 0o644)
    files = {n: {"bytes": (target / n).stat().st_size, "sha256": file_digest(target / n)} for n in sorted(names)}
    told = {**manifest, "files": files, "digest": digest_json(files), "facts": {**manifest["facts"], "stored": config.precision}}
    write_json(target / "artifact.json", told)
