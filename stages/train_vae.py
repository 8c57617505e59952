"""train-vae: clips -> the first stage E_I, D_I with its latent mean and deviation (DESIGN, walk 3; paper 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.artifacts import Artifact, Input, read_artifact, write_json
from stages.artifacts.model import ModelStore
from stages.errors import UsageError
from stages.runtime import Report, Runtime, process_rank
from stages.training import ranks
from stages.training.settings import require_counts, require_resolution

if TYPE_CHECKING:
    import torch

    from stages.models.discriminator import PatchDiscriminator
    from stages.models.vae import FirstStage
    from stages.training.loop import LoopConfig

CODE = 1
Preset = Literal["tiny", "compact", "paper", "kl-f4", "kl-f8"]

# preset      steps    batch patch rate     mouth KL                 LPIPS adversary from its layers
TRAINING = {
    "tiny": (3000, 8, 64, 3e-4, 2.0, 1e-6, 0.0, 0.0, 0, 3),
    "compact": (20_000, 16, 128, 4e-4, 2.0, 1e-6, 0.0, 0.0, 0, 3),
    "paper-256": (533_066, 8, 256, 3.6e-5, 1.0, 1e-6, 1.0, 0.75, 0, 3),  # LDM vq-f4: 4.5e-6 x 8 pictures
    "paper-512": (971_043, 10, 256, 4.5e-5, 1.0, 1e-6, 1.0, 0.6, 1, 2),  # LDM vq-f8: 4.5e-6 x 10 pictures
    # LDM kl-f4 and kl-f8: 4.5e-6 x 12 pictures x 2 pieces. Its 1e-6 stands between sums over a picture and over its
    # latents; between a mean over 3 f^2 values and a sum over the channels of one place that is
    "kl-f4": (176_991, 24, 256, 1.08e-4, 1.0, 1e-6 / (3 * 4**2), 1.0, 0.5, 50_001, 3),
    "kl-f8": (246_803, 24, 256, 1.08e-4, 1.0, 1e-6 / (3 * 8**2), 1.0, 0.5, 50_001, 3),
}
FIELDS = (
    "steps", "batch", "patch", "learning_rate", "mouth_weight", "kl_weight",
    "perceptual_weight", "adversarial_weight", "adversarial_start",
)  # fmt: skip
"""The columns that are options; the last is the discriminator's convolutions of stride 2."""
LDM: dict[str, Any] = {"betas": (0.5, 0.9), "weight_decay": 0.0, "warmup": 1, "clip_gradient": float("inf")}
"""How LDM optimises: plain Adam at a constant rate. `tiny` and `compact` keep AdamW, a warm-up and clipped gradients."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the first stage depends on. None means: as the preset says."""

    preset: Preset = "tiny"
    """Size and recipe: tiny (minutes on a CPU), compact (what ships), paper (LDM's VQ-f4 at 256 px, f8 at 512 px), kl-f4, kl-f8 (LDM's)."""
    resolution: int | None = None
    """Side of the crops; must be what preprocess made."""
    init: str | None = None
    """Start from a vae artifact, or from a first stage in diffusers form by folder or hub id; --steps 0 takes it as it is."""
    part: Literal["all", "decoder"] = "all"
    """What is trained: decoder leaves the latents, and all that was trained on them, as they are."""
    steps: int | None = None
    """Optimiser steps."""
    batch: int | None = None
    """Patches in a batch."""
    patch: int | None = None
    """Side of the training patches in pixels."""
    learning_rate: float | None = None
    """Learning rate, of the discriminator too."""
    mouth_weight: float | None = None
    """How much more an error inside the mouth mask counts (1: LDM)."""
    kl_weight: float | None = None
    """Weight of the KL term."""
    perceptual_weight: float | None = None
    """Weight of LPIPS (VGG16) in the reconstruction (LDM: 1); 0 does without its weights."""
    adversarial_weight: float | None = None
    """Weight of the adversarial term, before it is balanced with the reconstruction; 0: no discriminator."""
    adversarial_start: int | None = None
    """Steps without it: until then the discriminator rests."""
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
        if self.part == "decoder" and not self.init:
            raise UsageError("--part decoder: needs the first stage that it belongs to: --init DIR")
        require_counts(self, "batch", "save_every", "validate_every")
        for name in ("mouth_weight", "kl_weight", "perceptual_weight", "adversarial_weight", "adversarial_start"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least 0")

    def resolved(self, resolution: int) -> Config:
        """Every None filled in. Raises UsageError when --resolution is not the clips'."""
        require_resolution(self.resolution, resolution)
        defaults: dict[str, Any] = dict(zip(FIELDS, _recipe(self.preset, resolution))) | {"resolution": resolution}
        defaults["patch"] = min(defaults["patch"], resolution)
        config = replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})
        if config.patch > resolution or config.patch % 32:  # type: ignore[operator]
            raise UsageError(f"--patch {config.patch}: must be a multiple of 32, at most {resolution}")
        if config.adversarial_weight and config.precision == "fp16":
            raise UsageError("--precision fp16: too coarse to weigh two losses' gradients; use bf16 or no, or --adversarial-weight 0")
        return config


def _recipe(preset: Preset, resolution: int) -> tuple[Any, ...]:
    """A row of TRAINING."""
    return TRAINING[preset if preset != "paper" else "paper-512" if resolution >= 512 else "paper-256"]


def run(config: Config, inputs: Path, out: Path | None, runtime: Runtime) -> Report:
    """Train on the clips artifact `inputs`; the model goes to `out`, by default inputs/vae-<resolution>."""
    work = read_artifact(Path(inputs), "clips")
    config = config.resolved(work.config["resolution"])
    root = Path(out) if out else Path(inputs) / f"vae-{config.resolution}"
    sources = [Input("clips", "clips", work.digest)]
    if _is_ours(config.init):
        sources.append(Input("init", "vae", read_artifact(Path(config.init), "vae").digest))
    with ModelStore(root, kind="vae", stage="train-vae", code=CODE, config=config, inputs=sources, runtime=runtime) as store:
        ranks.start(runtime)
        reason = ranks.agree(store.why)
        runtime.reporter.log(f"train {root}: {reason}" if reason else f"skip {root}: up to date")
        if not reason or runtime.dry_run:
            return Report(out=root, skipped=int(not reason))
        return _train(config, work, root, store, runtime)


def _train(config: Config, work: Artifact, root: Path, store: ModelStore, runtime: Runtime) -> Report:
    import torch

    from stages.metrics.lpips import load_lpips
    from stages.training.checkpoint import save_weights
    from stages.training.crops import ClipSet, split_clips
    from stages.training.first_stage import FirstStageTask
    from stages.training.loop import Outcome, fit

    perceptual = load_lpips("vgg", runtime).to(runtime.torch_device()) if config.perceptual_weight and config.steps else None
    torch.manual_seed(config.seed)
    stage = _first_stage(config)
    train = split_clips(work, "train")
    held_out = split_clips(work, "val") or train
    adversary = _adversary(config, runtime) if config.adversarial_weight and config.steps else None
    task = FirstStageTask(stage, ClipSet(train, "train on"), ClipSet(held_out, "validate on"), config, perceptual, adversary)
    key = store.open_for_training()
    ranks.wait()  # the first has taken the manifest away
    if config.steps:
        outcome = fit(task, _loop(config), root, runtime, key)
    else:
        outcome = Outcome(stage.to(runtime.torch_device()), 0, True, {})
    if process_rank() > 0:
        return Report(out=root, done=1)
    model = outcome.ema
    device = next(model.parameters()).device
    if config.part == "all" and (config.steps or not _is_ours(config.init)):
        model.set_normalisation(*task.measure(model, device))
    scores = outcome.scores or task.validate(model, device)
    save_weights(root / "model.safetensors", model)
    normalisation = {"mean": model.mean.tolist(), "std": model.std.tolist()}
    write_json(root / "config.json", {"first_stage": model.config, "net": _net_config(model), **normalisation})
    facts = {
        "factor": model.factor,
        "channels": model.channels,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": outcome.step,
        "finished": outcome.finished,
        "scores": {k: round(float(v), 4) for k, v in scores.items()},
    }
    return store.seal(["model.safetensors", "config.json"], facts)


def _first_stage(config: Config) -> FirstStage:
    from stages.models.vae import build_first_stage, first_stage_config, load_pretrained
    from stages.training.checkpoint import load_first_stage

    if not config.init:
        stage = build_first_stage(first_stage_config(config.preset, config.resolution))
    elif _is_ours(config.init):
        stage = load_first_stage(Path(config.init)).requires_grad_().train()
    else:
        stage = load_pretrained(config.init)
    if config.part == "decoder":
        stage.requires_grad_(False)
        for module in stage.decoding:
            module.requires_grad_()
    return stage


def _is_ours(init: str | None) -> bool:
    """Whether --init is a vae artifact, which knows its normalisation."""
    return bool(init) and (Path(init) / "artifact.json").is_file()


def _loop(config: Config) -> LoopConfig:
    from stages.training.loop import LoopConfig

    return replace(LoopConfig.of(config), **({} if config.preset in ("tiny", "compact") else LDM))


def _adversary(config: Config, runtime: Runtime) -> PatchDiscriminator:
    from stages.models.discriminator import PatchDiscriminator

    if runtime.compile:
        raise UsageError("--compile: the adversarial loss needs the network's gradients twice; leave it, or use --adversarial-weight 0")
    return PatchDiscriminator(layers=_recipe(config.preset, config.resolution)[-1])


def _net_config(model: torch.nn.Module) -> dict[str, object]:
    """diffusers' own description of the network, enough to rebuild it."""
    config = {k: v for k, v in model.net.config.items() if not k.startswith("_")}
    return {"class": type(model.net).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}}

