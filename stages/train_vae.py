"""train-vae: clips -> the first stage E_I, D_I with its latent mean and deviation (DESIGN, walk 3; paper 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stages.artifacts import Artifact, Input, read_artifact, write_json
from stages.artifacts.model import ModelStore
from stages.errors import UsageError
from stages.runtime import Report, Runtime, process_rank
from stages.training import ranks
from stages.training.settings import require_counts, require_resolution

if TYPE_CHECKING:
    import torch

CODE = 1
Preset = Literal["tiny", "compact", "paper"]

# preset      steps  batch patch learning rate
TRAINING = {
    "tiny": (3000, 8, 64, 3e-4),
    "compact": (20_000, 16, 128, 4e-4),
    "paper": (533_066, 8, 256, 3.6e-5),  # LDM vq-f4: 4.5e-6 x 8 pictures
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the first stage depends on. None means: as the preset says."""

    preset: Preset = "tiny"
    """Size and recipe: tiny (minutes on a CPU), compact (what ships), paper (VQ-f4 at 256 px, f8 at 512 px)."""
    resolution: int | None = None
    """Side of the crops; must be what preprocess made."""
    init: str | None = None
    """Start from a first stage in diffusers form, by folder or hub id; --steps 0 takes it as it is."""
    steps: int | None = None
    """Optimiser steps."""
    batch: int | None = None
    """Patches in a batch."""
    patch: int | None = None
    """Side of the training patches in pixels."""
    learning_rate: float | None = None
    """AdamW learning rate."""
    mouth_weight: float = 2.0
    """How much more an error inside the mouth mask counts."""
    kl_weight: float = 1e-6
    """Weight of the KL term (LDM)."""
    ema: float = 0.999
    """Decay of the averaged weights."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic: no (fp32), bf16 or fp16."""
    final: Literal["last", "best"] = "last"
    """Which averaged weights become the model: the last, or the best by validation."""
    seed: int = 0
    """Seed of weights and data order."""
    save_every: int = 500
    """Steps between training states."""
    validate_every: int = 500
    """Steps between validations and sample sheets."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 0:
            raise UsageError(f"--steps {self.steps}: must be at least 0")
        require_counts(self, "batch", "save_every", "validate_every")

    def resolved(self, resolution: int) -> Config:
        """Every None filled in. Raises UsageError when --resolution is not the clips'."""
        require_resolution(self.resolution, resolution)
        steps, batch, patch, rate = TRAINING[self.preset]
        defaults = dict(resolution=resolution, steps=steps, batch=batch, patch=min(patch, resolution), learning_rate=rate)
        config = replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})
        if config.patch > resolution or config.patch % 32:  # type: ignore[operator]
            raise UsageError(f"--patch {config.patch}: must be a multiple of 32, at most {resolution}")
        return config


def run(config: Config, inputs: Path, out: Path | None, runtime: Runtime) -> Report:
    """Train on the clips artifact `inputs`; the model goes to `out`, by default inputs/vae-<resolution>."""
    work = read_artifact(Path(inputs), "clips")
    config = config.resolved(work.config["resolution"])
    root = Path(out) if out else Path(inputs) / f"vae-{config.resolution}"
    sources = [Input("clips", "clips", work.digest)]
    with ModelStore(root, kind="vae", stage="train-vae", code=CODE, config=config, inputs=sources, runtime=runtime) as store:
        ranks.start(runtime)
        reason = ranks.agree(store.why)
        runtime.reporter.log(f"train {root}: {reason}" if reason else f"skip {root}: up to date")
        if not reason or runtime.dry_run:
            return Report(out=root, skipped=int(not reason))
        return _train(config, work, root, store, runtime)


def _train(config: Config, work: Artifact, root: Path, store: ModelStore, runtime: Runtime) -> Report:
    import torch

    from stages.models.vae import build_first_stage, first_stage_config, load_pretrained
    from stages.training.checkpoint import save_weights
    from stages.training.crops import ClipSet, split_clips
    from stages.training.first_stage import FirstStageTask
    from stages.training.loop import LoopConfig, Outcome, fit

    torch.manual_seed(config.seed)
    stage = load_pretrained(config.init) if config.init else build_first_stage(first_stage_config(config.preset, config.resolution))
    train = split_clips(work, "train")
    held_out = split_clips(work, "val") or train
    task = FirstStageTask(stage, ClipSet(train, "train on"), ClipSet(held_out, "validate on"), config)
    key = store.open_for_training()
    ranks.wait()  # the first has taken the manifest away
    if config.steps:
        outcome = fit(task, LoopConfig.of(config), root, runtime, key)
    else:
        outcome = Outcome(stage.to(runtime.torch_device()), 0, True, {})
    if process_rank() > 0:
        return Report(out=root, done=1)
    model = outcome.ema
    device = next(model.parameters()).device
    mean, std = task.measure(model, device)
    model.set_normalisation(mean, std)
    scores = outcome.scores or task.validate(model, device)
    save_weights(root / "model.safetensors", model)
    write_json(root / "config.json", {"first_stage": model.config, "net": _net_config(model), "mean": mean.tolist(), "std": std.tolist()})
    facts = {
        "factor": model.factor,
        "channels": model.channels,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": outcome.step,
        "finished": outcome.finished,
        "scores": {k: round(float(v), 4) for k, v in scores.items()},
    }
    return store.seal(["model.safetensors", "config.json"], facts)


def _net_config(model: torch.nn.Module) -> dict[str, object]:
    """diffusers' own description of the network, enough to rebuild it."""
    config = {k: v for k, v in model.net.config.items() if not k.startswith("_")}
    return {"class": type(model.net).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}}

