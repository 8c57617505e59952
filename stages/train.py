"""train: clips, features and a first stage -> the conditional denoiser (DESIGN, walk 4; paper 3.2)."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stages.artifacts import Artifact, Clip, Input, read_artifact, write_json
from stages.artifacts.model import ModelStore
from stages.errors import ArtifactError, UsageError
from stages.faces.lips import LIPS
from stages.faces.mask import MaskKind
from stages.runtime import Report, Runtime, process_count, process_rank
from stages.training import ranks
from stages.training.settings import require_counts, require_resolution

if TYPE_CHECKING:
    from stages.diffusion.render import Coder
    from stages.models.denoiser import Denoiser, DenoiserConfig

CODE = 1
Preset = Literal["tiny", "compact", "paper"]

# preset      steps   batch rate    ema     warm-up clip  T     mask          reference and how many, previous, looks, deaf, noise
TRAINING = {
    "tiny": (3000, 24, 4e-4, 0.995, 100, 1.0, 1000, "lower-face", "matched", 2, 0.25, 1, 0.0, 0.2),
    "compact": (40_000, 24, 6e-4, 0.999, 200, 1.0, 1000, "lower-face", "matched", 1, 0.1, 2, 0.1, 0.2),
    "paper": (100_000, 64, 6.4e-5, 0.9999, 1, 0.1, 1000, "paper", "fixed", 0, 0.0, 1, 0.0, 0.0),
}


@dataclass(frozen=True)
class Inputs:
    """Where training finds its data."""

    work: Path
    """A clips artifact (preprocess)."""
    features: Path | None = None
    """A features artifact; by default work/features."""
    vae: Path | None = None
    """A vae artifact; by default the one of `init`, else work/vae-<resolution>."""
    init: Path | None = None
    """A denoiser artifact whose weights to start from; presets that differ from it are an error."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the denoiser depends on. None means: as the preset says."""

    preset: Preset = "tiny"
    """Size and recipe: tiny (minutes on a CPU), compact (what ships), paper (the release, figure by figure)."""
    resolution: int | None = None
    """Side of the crops; must be what preprocess made."""
    context: Literal["tokens", "single"] | None = None
    """Condition tokens: single is the paper's one token, tokens adds the rows of the audio window."""
    audio_filter: bool = True
    """Smooth the audio with the learnable temporal filter."""
    conditions: str = "a,l,m,r"
    """What the network is told: a (audio), l (landmarks), m (masked frame), r (reference frame)."""
    mask: MaskKind | None = None
    """What is generated: lower-face, mouth, or paper (everything below the nose tip)."""
    reference: Literal["matched", "sampled", "fixed"] | None = None
    """Reference frame: drawn anew for each sample, alike in pose or any; or once for each frame as in the release."""
    references: int | None = None
    """Matched references of each frame in the latent cache, to draw from."""
    previous_frame_share: float | None = None
    """Share of samples whose reference is the noised previous frame."""
    looks: int | None = None
    """Looks of each clip in the latent cache: itself, and others mirrored, in other colours, cut a little differently."""
    audio_dropout: float | None = None
    """Share of samples that hear nothing, so that the sound can guide the sampling."""
    target: Literal["picture", "difference"] | None = None
    """What is drawn: the picture, or its difference to the reference frame."""
    audio_noise: float | None = None
    """Noise on the features, in their deviations, so that few voices do for all."""
    tint: float = 0.0
    """How far scale and offset of the latents differ from sample to sample, in all three pictures alike: other light and skin."""
    lips: Literal["on", "off"] | None = None
    """First turn the sound into the lips' shape, taught by the clips' landmarks, and draw by that as well."""
    prediction: Literal["epsilon", "v_prediction", "sample"] | None = None
    """What the network predicts."""
    diffusion_steps: int | None = None
    """T: 1000 (the release), 200 (the paper)."""
    mouth_weight: float = 3.0
    """How much more an error inside the mask counts."""
    channel_power: float = 0.0
    """Weight of each latent channel: its deviation before normalisation to this power (0: all alike, 2: as in pixels)."""
    pixel_weight: float = 0.0
    """Weight of an L1 + LPIPS term between decoded pictures, for fine-tuning (costs a decode for each sample)."""
    pixel_noise: float = 0.5
    """The pixel term is taken where the noise is at most this share (sqrt(1 - alpha_bar)) of the signal's scale."""
    one_step: float = 0.0
    """Share of samples that see noise alone and must draw z_0 at once: fine-tunes a model for `infer --steps 1`; the pixel term holds
    for them too."""
    steps: int | None = None
    """Optimiser steps."""
    batch: int | None = None
    """Global batch, over all processes."""
    learning_rate: float | None = None
    """AdamW learning rate."""
    ema: float | None = None
    """Decay of the averaged weights."""
    warmup: int | None = None
    """Steps over which the learning rate rises."""
    clip_gradient: float | None = None
    """Largest gradient norm."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Arithmetic: no (fp32), bf16 or fp16."""
    final: Literal["last", "best"] = "last"
    """Which averaged weights become the model: the last, or the best by validation loss."""
    seed: int = 0
    """Seed of weights and data order."""
    save_every: int = 500
    """Steps between training states."""
    validate_every: int = 500
    """Steps between validations and sample sheets."""

    def __post_init__(self) -> None:
        require_counts(self, "steps", "batch", "diffusion_steps", "looks", "save_every", "validate_every")
        if self.pixel_weight < 0 or not 0 < self.pixel_noise <= 1:
            raise UsageError("--pixel-weight: must be at least 0; --pixel-noise: above 0 and at most 1")
        for name in ("one_step", "tint"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be between 0 and 1")
        if self.conditions.replace(",", "").strip("almr") or not self.conditions:
            raise UsageError(f"--conditions {self.conditions}: must be some of a,l,m,r")

    def resolved(self, resolution: int) -> Config:
        """Every None filled in. Raises UsageError when --resolution is not the clips'."""
        from stages.models.denoiser import DENOISERS

        require_resolution(self.resolution, resolution)
        names = (
            "steps", "batch", "learning_rate", "ema", "warmup", "clip_gradient", "diffusion_steps", "mask", "reference",
            "references", "previous_frame_share", "looks", "audio_dropout", "audio_noise",
        )  # fmt: skip
        defaults: dict[str, Any] = dict(zip(names, TRAINING[self.preset], strict=True)) | {"resolution": resolution}
        defaults["context"], defaults["prediction"] = DENOISERS[self.preset][3], DENOISERS[self.preset][5]
        defaults["lips"] = "on" if DENOISERS[self.preset][7] and "a" in self.conditions and self.context != "single" else "off"
        defaults["target"] = "difference" if DENOISERS[self.preset][6] and "r" in self.conditions else "picture"
        if self.reference is not None and self.reference != "matched":
            defaults["references"] = 0
        elif not defaults["references"]:
            defaults["references"] = 2
        config = replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})
        if not 0 <= config.previous_frame_share <= 1:  # type: ignore[operator]
            raise UsageError(f"--previous-frame-share {config.previous_frame_share}: must be between 0 and 1")
        if config.reference == "matched" and config.references < 1:  # type: ignore[operator]
            raise UsageError(f"--references {config.references}: at least 1 with --reference matched")
        if config.audio_noise < 0:  # type: ignore[operator]
            raise UsageError(f"--audio-noise {config.audio_noise}: must be at least 0")
        if not 0 <= config.audio_dropout < 1:  # type: ignore[operator]
            raise UsageError(f"--audio-dropout {config.audio_dropout}: must be at least 0 and below 1")
        return config


def run(config: Config, inputs: Inputs, out: Path | None, runtime: Runtime, *, latents_only: bool = False) -> Report:
    """Train the denoiser in `out`, by default work/denoiser-<resolution>; or make its latent cache only.

    Raises ArtifactError when clips, features or first stage are missing or do not belong together.
    """
    if (runtime.shard or runtime.merge) and not latents_only:
        raise UsageError("--shard and --merge share out the latent cache: give --latents-only with them")
    work_root = Path(inputs.work)
    work = read_artifact(work_root, "clips")
    config = config.resolved(work.config["resolution"])
    features = read_artifact(Path(inputs.features or work_root / "features"), "features") if not latents_only else None
    init = read_artifact(Path(inputs.init), "denoiser") if inputs.init else None
    own = init.root / "first-stage" if init else work_root / f"vae-{config.resolution}"
    vae = read_artifact(Path(inputs.vae or own), "vae")
    if features:
        _check_features(work, features)
    if vae.config["resolution"] != config.resolution:
        raise ArtifactError(f"{vae.root} was trained at {vae.config['resolution']} px, the clips are {config.resolution} px")
    if features is None:
        return _latents(config, work, vae, runtime)
    root = Path(out) if out else work_root / f"denoiser-{config.resolution}"
    sources = [Input(r, r, a.digest) for r, a in (("clips", work), ("features", features), ("vae", vae))]
    sources += [Input("init", "denoiser", init.digest)] if init else []
    with ModelStore(root, kind="denoiser", stage="train", code=CODE, config=config, inputs=sources, runtime=runtime) as store:
        ranks.start(runtime)
        reason = ranks.agree(store.why)
        runtime.reporter.log(f"train {root}: {reason}" if reason else f"skip {root}: up to date")
        if runtime.dry_run:
            _forecast(config, features, vae, runtime)
        if not reason or runtime.dry_run:
            return Report(out=root, skipped=int(not reason))
        return _train(config, work, features, vae, store, runtime, init)


def _shape(config: Config, features: Artifact, latent_channels: int) -> DenoiserConfig:
    from stages.models.denoiser import denoiser_config

    return denoiser_config(
        config.preset, latent_channels=latent_channels, audio_features=features.manifest["facts"]["features"],
        context=config.context, audio_filter=config.audio_filter, prediction=config.prediction,
        conditions=config.conditions.replace(",", ""), residual=config.target == "difference", lips=LIPS if config.lips == "on" else 0,
    )  # fmt: skip


def _forecast(config: Config, features: Artifact, vae: Artifact, runtime: Runtime) -> None:
    """Log what the training will cost; nothing is trained or written."""
    import torch

    from stages.faces.mask import window
    from stages.models.denoiser import Condition, Denoiser
    from stages.shapes import AUDIO_NEIGHBOURS, CONDITION_POINTS, WINDOW_ROWS
    from stages.training.estimate import count, describe, measured_speed

    facts, device = vae.manifest["facts"], runtime.torch_device()
    rows, columns = window(config.mask, config.resolution // facts["factor"])
    latent = (1, facts["channels"], rows.stop - rows.start, columns.stop - columns.start)
    with torch.device("meta"):
        shape = _shape(config, features, facts["channels"])
        model = Denoiser(shape)
        audio = torch.empty(1, AUDIO_NEIGHBOURS, WINDOW_ROWS, shape.audio_features)
        points, lips = torch.empty(1, len(CONDITION_POINTS), 2), torch.empty(1, shape.lips) if shape.lips else None
        condition = Condition(torch.empty(latent), torch.empty(latent), audio, points, lips)
        cost = count(model, lambda: model(torch.empty(latent), torch.zeros(1, dtype=torch.long), condition))
    samples = max(1, config.batch // process_count() // runtime.accumulate)
    lines = describe(
        cost, batch=config.batch, samples=samples, steps=config.steps, speed=measured_speed(device, config.precision),
        half=config.precision != "no", where=f"{device}, {process_count()} of them" if process_count() > 1 else str(device),
    )  # fmt: skip
    for line in lines:
        runtime.reporter.log(line)


def _check_features(work: Artifact, features: Artifact) -> None:
    for id, clip in work.clips.items():
        made = features.clips.get(id)
        source = made and next(i["digest"] for i in made.key["inputs"] if i["role"] == "clip")
        if source != clip.digest:
            what = "are out of date" if made else "are missing"
            raise ArtifactError(f"clip {id}: its features {what}; run `difftalk extract-audio {work.root}`")


def _train(
    config: Config, work: Artifact, features: Artifact, vae: Artifact, store: ModelStore, runtime: Runtime, init: Artifact | None
) -> Report:
    import torch

    from stages.diffusion.render import Renderer
    from stages.diffusion.schedule import Schedule
    from stages.metrics.lpips import load_lpips
    from stages.models.denoiser import Denoiser
    from stages.training.checkpoint import load_first_stage, save_weights
    from stages.training.crops import ClipSet, split_clips
    from stages.training.denoising import DenoisingTask
    from stages.training.loop import LoopConfig, fit

    device, root = runtime.torch_device(), store.root
    first_stage = load_first_stage(vae.root).to(device)
    torch.manual_seed(config.seed)
    model = Denoiser(_shape(config, features, first_stage.channels)).to(device)
    schedule = Schedule(steps=config.diffusion_steps, prediction=config.prediction)
    renderer = Renderer(first_stage, model, schedule, config.mask, config.resolution)
    latents = _all_latents(config, work, vae, renderer, runtime)
    train = split_clips(work, "train")
    if model.config.lips:
        _everybodys_lips(model, train)
    held_out = split_clips(work, "val") or train
    same_sound = _start_from(init, describe(config, model, schedule, features), model) if init else False
    if not same_sound:
        if init:
            runtime.reporter.log("--init: it heard another acoustic model of the same form; what listens learns anew")
        _normalise_audio(model, [features.clips[c.id] for c in train])
    sets = ClipSet(train, "train on"), ClipSet(held_out, "validate on")
    perceptual = load_lpips("alex", runtime).to(device) if config.pixel_weight else None
    task = DenoisingTask(model, renderer, *sets, latents, features, config, perceptual)
    if model.config.residual and not init:
        model.residual_scale.fill_(task.measure_scale())
    key = store.open_for_training()
    ranks.wait()  # the first has taken the manifest away
    outcome = fit(task, LoopConfig.of(config), root, runtime, key)
    if process_rank() > 0:
        return Report(out=root, done=1)
    save_weights(root / "model.safetensors", outcome.ema)
    write_json(root / "config.json", describe(config, model, schedule, features))
    _copy_first_stage(vae.root, root / "first-stage")
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": outcome.step,
        "finished": outcome.finished,
        "scores": {k: round(float(v), 4) for k, v in outcome.scores.items()},
    }
    files = ["model.safetensors", "config.json", "first-stage/model.safetensors", "first-stage/config.json"]
    return store.seal(files, facts)


def _latents_root(config: Config, work: Artifact, vae: Artifact) -> Path:
    """Beside the clips, not in `out`: trainings that share a first stage and a mask share their latents."""
    looks = f"-{config.looks}-looks" if config.looks > 1 else ""
    turned = f"-{config.references}-references{'-lips' if _told_lips(config) else ''}" if config.references else ""
    half = f"-{config.precision}" if config.precision != "no" else ""
    return work.root / f"latents-{config.resolution}-{config.mask}-{vae.digest[:8]}{looks}{turned}{half}"


def _told_lips(config: Config) -> bool:
    return config.lips == "on" and config.reference == "matched"


def _latents(config: Config, work: Artifact, vae: Artifact, runtime: Runtime, coder: Coder | None = None) -> Report:
    """Make or complete the latent cache."""
    from stages.diffusion.render import Coder
    from stages.training.checkpoint import load_first_stage
    from stages.training.latents import cache_latents

    if coder is None:
        device = "cpu" if runtime.elsewhere else runtime.torch_device()
        coder = Coder(load_first_stage(vae.root).to(device), config.mask, config.resolution)
    counts = {"looks": config.looks, "references": config.references, "lips": _told_lips(config), "precision": config.precision}
    return cache_latents(coder, work, vae, _latents_root(config, work, vae), runtime, **counts)


def _all_latents(config: Config, work: Artifact, vae: Artifact, coder: Coder, runtime: Runtime) -> Artifact:
    """The latent cache, whole, before training: made by all its processes, or by the cluster of --ray."""
    runtime = replace(runtime, force=False)
    if process_count() > 1 and not runtime.ray:  # each process encodes its share, then the first seals
        _latents(config, work, vae, replace(runtime, shard=(process_rank(), process_count())), coder)
        ranks.wait()
    if process_rank() == 0 and (made := _latents(config, work, vae, runtime, coder)).failed:
        raise ArtifactError(f"{made.out}: some clips could not be encoded, see failures.jsonl there")
    ranks.wait()
    return read_artifact(_latents_root(config, work, vae), "latents")


def _normalise_audio(model: Denoiser, features: list[Any]) -> None:
    """Mean and deviation of each feature over the training clips, kept with the weights."""
    import torch

    total = squares = count = 0.0
    for clip in features:
        rows = np.asarray(clip.array("audio.npy")[:, ::4], np.float64).reshape(-1, model.config.audio_features)
        total, squares, count = total + rows.sum(0), squares + np.square(rows).sum(0), count + len(rows)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-8))
    model.set_audio_normalisation(torch.from_numpy(mean).float(), torch.from_numpy(std).float())


def _start_from(init: Artifact, described: dict[str, Any], model: Denoiser) -> bool:
    """Load its weights; whether they heard the same acoustic model, and not another one of its form.

    Raises ArtifactError when they were trained for another network, target, crop or form of sound.
    """
    from stages.training.checkpoint import load_weights

    theirs = json.loads((init.root / "config.json").read_text(encoding="utf-8"))
    ours = json.loads(json.dumps(described))
    flat = [{f"{k}.{n}": v for k, d in c.items() for n, v in (d.items() if isinstance(d, dict) else [("", d)])} for c in (theirs, ours)]
    heard = [side.pop("audio.weights", None) for side in flat]
    differ = [f"{k.rstrip('.')} is {flat[0].get(k)} there, {flat[1].get(k)} here" for k in flat[1] if flat[0].get(k) != flat[1][k]]
    if differ:
        raise ArtifactError(f"--init {init.root}: another model: {'; '.join(differ)}; choose the same --preset and options")
    load_weights(init.root / "model.safetensors", model)
    return heard[0] == heard[1]


def _everybodys_lips(model: Denoiser, clips: list[Clip]) -> None:
    """What stands for a person of whom only a photo is known: the clips' mean habits."""
    import torch

    from stages.faces import habits, lip_shape

    shapes = [lip_shape(np.asarray(c.array("align.npy")), np.asarray(c.array("landmarks.npy"))) for c in clips]
    model.lip_habits.copy_(torch.from_numpy(np.mean([habits(s) for s in shapes], axis=0)))


def describe(config: Config, model: Denoiser, schedule: Any, features: Artifact) -> dict[str, Any]:
    """config.json: all that infer needs to rebuild and feed the model."""
    return {
        "denoiser": model.config_dict(),
        "schedule": asdict(schedule),
        "mask": config.mask,
        "resolution": config.resolution,
        "audio": {**features.manifest["facts"], "weights": features.manifest["weights"]},
    }


def _copy_first_stage(source: Path, target: Path) -> None:
    """A denoiser carries its first stage, a whole artifact: one folder is the whole model."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "config.json", "artifact.json"):
        shutil.copyfile(source / name, target / name)
