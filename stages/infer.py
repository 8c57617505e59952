"""infer: a reference (video or photo) and speech -> a talking video (DESIGN, walk 5; paper 3.3).

Track the face, crop it canonically, generate the masked window of every frame, paste it back: outside the mask every
pixel is the source's. Frames, fps, size and colour tags are the reference's; the driving sound is kept as it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from stages.artifacts import Input, Store, Unit, file_digest, read_artifact, refuse_bad_place, write_atomic, write_json
from stages.errors import ArtifactError, InputError, UsageError
from stages.faces.detect import LandmarkTool
from stages.media.audio import read_audio
from stages.media.feed import PhotoFeed, VideoFeed, open_feed, pingpong
from stages.media.frames import FrameWriter
from stages.media.probe import MediaInfo, probe
from stages.media.video import VIDEO_SUFFIXES, VideoWriter
from stages.runtime import Progress, Report, Runtime
from stages.shapes import LIP_INNER_BOTTOM, LIP_INNER_TOP, SAMPLE_RATE
from stages.speech.windows import neighbours, windows_at

if TYPE_CHECKING:
    from torch import Tensor

    from stages.diffusion.render import Renderer
    from stages.faces import FaceTrack

CODE = 1
BUNDLED = Path(__file__).parent / "pretrained" / "denoiser-256"
METADATA = {"comment": "Speech animation generated with difftalk: the mouth in this video is synthetic."}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the video depends on."""

    steps: int = 10
    """Denoising steps a frame; the paper takes 200."""
    sampler: Literal["ddim", "dpm++"] = "ddim"
    """DDIM (the paper) or DPM-Solver++."""
    reference: Literal["fixed", "progressive"] = "fixed"
    """Reference of each frame: one frame of the person, or the frame generated before (paper 3.3; one at a time)."""
    seed: int = 0
    """Same seed, same frames."""
    landmarks: LandmarkTool = "dlib"
    """Landmark tool: dlib or face-alignment."""
    face: int = 0
    """Whose face: 0 the most prominent, 1 the next, and so on, as listed in out.json."""
    max_gap: float = 0.4
    """Seconds without a face that are bridged; longer ones pass through unchanged."""
    acoustic_model: Path | None = None
    """Acoustic model that the model was trained with, when it is not the one that ships."""
    batch: int = 8
    """Frames at a time; changes speed, not frames."""
    crf: int = 16
    """Quality of the H.264 encode: lower is better and larger."""
    lossless: bool = False
    """Keep every RGB value exactly (large; few players show it)."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("face", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"--crf {self.crf}: must be between 0 and 51")


@dataclass(frozen=True)
class Inputs:
    """What speaks and who."""

    audio: Path
    """Any file with sound."""
    reference: Path
    """A video or a photo of the person."""
    model: Path | None = None
    """A denoiser artifact (difftalk train); by default the bundled one."""


class Sink(Protocol):
    """Where frames go."""

    def write(self, frame: np.ndarray) -> None: ...


def run(config: Config, inputs: Inputs, out: Path, runtime: Runtime) -> Report:
    """Write `out`: a video (.mp4 .m4v .mov .mkv) with out.json beside it, or, without such a suffix, a frames artifact.

    Raises InputError for a reference without a face or sound that cannot be read, ArtifactError for a model that
    cannot be used, UsageError for options that do not fit together.
    """
    out, clock, log = Path(out), Clock(), runtime.reporter.log
    _check_paths(inputs, out)
    media = probe(inputs.audio)
    if media.audio is None:
        raise InputError(f"{inputs.audio}: no audio track; give a file with sound as --audio")
    feed = open_feed(Path(inputs.reference))
    if runtime.dry_run:
        log(f"make {out}: {config.steps} steps a frame at {feed.fps} fps, {feed.size[0]}x{feed.size[1]}")
        return Report(out=out)
    with clock("load"):
        renderer, described, model = load_model(inputs.model, runtime)
    with clock("audio"):
        speech = Speech(config, described, inputs.audio, media, feed.fps, runtime)
    with clock("track"):
        track, count = _track(feed, config, inputs, runtime)
    job = Job(config, renderer, feed, track, count, speech, clock)
    if out.suffix.lower() in VIDEO_SUFFIXES:
        codec = media.audio.codec
        with write_atomic(out) as part:
            with VideoWriter(
                part, fps=feed.fps, size=feed.size, like=feed.info, audio=inputs.audio, audio_codec=codec,
                lossless=config.lossless, crf=config.crf, metadata=METADATA,
            ) as sink:  # fmt: skip
                facts = job.render(sink, out.parent, runtime)
        facts |= _provenance(config, inputs, model)
        write_json(out.with_suffix(".json"), facts)
        return Report(out=out, done=1, facts=facts)
    return _frames_artifact(job, config, inputs, model, out, runtime)


def _check_paths(inputs: Inputs, out: Path) -> None:
    for path in (inputs.audio, inputs.reference):
        if not Path(path).exists():
            raise InputError(f"{path}: no such file")
        if out.exists() and out.samefile(path):
            raise UsageError(f"{out}: would overwrite an input; choose another -o")
    if out.suffix and out.suffix.lower() not in VIDEO_SUFFIXES:
        raise UsageError(f"{out}: cannot write {out.suffix}; use {' '.join(VIDEO_SUFFIXES)}, or a name without suffix for frames")
    refuse_bad_place(out if out.suffix else out / "artifact.json")


def load_model(path: Path | None, runtime: Runtime) -> tuple[Renderer, dict[str, Any], str]:
    """(renderer on the device, the model's config.json, the model's digest)."""
    from stages.diffusion.render import Renderer
    from stages.diffusion.schedule import Schedule
    from stages.models.denoiser import Denoiser, DenoiserConfig
    from stages.training.checkpoint import load_first_stage, load_weights

    if path is None and not BUNDLED.exists():
        raise InputError("no checkpoint ships with this version: give one with --model DIR, made by `difftalk train`")
    artifact = read_artifact(Path(path or BUNDLED), "denoiser")
    try:
        described = json.loads((artifact.root / "config.json").read_text(encoding="utf-8"))
        shape = {k: tuple(v) if isinstance(v, list) else v for k, v in described["denoiser"].items()}
        denoiser, schedule = Denoiser(DenoiserConfig(**shape)), Schedule(**described["schedule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{artifact.root / 'config.json'} cannot be used ({error}); train the model again") from error
    load_weights(artifact.root / "model.safetensors", denoiser)
    device = runtime.torch_device()
    first_stage = load_first_stage(artifact.root / "first-stage").to(device)
    return Renderer(first_stage, denoiser.to(device), schedule, described["mask"], described["resolution"]), described, artifact.digest


class Speech:
    """The driving sound as windows of acoustic features, made for a few frames at a time."""

    def __init__(self, config: Config, described: dict[str, Any], path: Path, media: MediaInfo, fps: Any, runtime: Runtime):
        from stages.speech.encoder import open_encoder

        facts = described["audio"]
        encoder = open_encoder(facts["encoder"], config.acoustic_model, runtime, output=facts.get("output", "logits"))
        trained_on = {w["sha256"] for w in facts["weights"]}
        if trained_on and trained_on != {w.sha256 for w in encoder.weights}:
            given = config.acoustic_model or "the acoustic model that ships"
            raise InputError(
                f"{given}: not what the model was trained on (sha256 {', '.join(sorted(trained_on))}); "
                "give that file with --acoustic-model FILE"
            )
        samples = read_audio(path, info=media)
        self.fps, self.seconds = fps, len(samples) / SAMPLE_RATE
        self.frames = round(self.seconds * fps)
        if self.frames < 1:
            raise InputError(f"{path}: {self.seconds * 1000:.0f} ms of sound are less than one frame; give a longer recording")
        self.rows = encoder.encode(samples)  # (R, F)
        self.neighbours = neighbours(self.frames, fps)  # (T, 8)

    def windows(self, frames: np.ndarray) -> np.ndarray:
        """(B, 8, 16, F) f32: windows of the neighbours of each output frame, zeros outside the sound."""
        near = self.neighbours[frames]  # (B, 8), -1 where there is none
        needed, back = np.unique(np.maximum(near, 0), return_inverse=True)
        windows = windows_at(self.rows, needed, self.fps)[back.reshape(near.shape)]
        return windows * (near >= 0)[..., None, None]


def _track(feed: PhotoFeed | VideoFeed, config: Config, inputs: Inputs, runtime: Runtime) -> tuple[FaceTrack, int]:
    """The person through the reference, and how many frames that has."""
    from stages.faces import FaceConfig, locate_face

    faces = FaceConfig(landmarks=config.landmarks, face=config.face, max_gap=config.max_gap)
    seen = 0

    def watched(bar: Progress) -> Iterator[np.ndarray]:
        nonlocal seen
        for frame in feed.once():
            yield frame
            seen += 1
            bar.advance(1)

    try:
        with runtime.reporter.progress("track", None, "frames") as bar:
            track = locate_face(watched(bar), float(feed.fps), faces, runtime.reporter)
    except InputError as error:
        where = str(inputs.reference)
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}", detail=error.detail) from error
    if feed.warning:
        runtime.reporter.warn(f"{inputs.reference}: damaged, {seen} frames could be read ({feed.warning})")
    return track, seen


class Clock:
    """Seconds spent in each part of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin


class Job:
    """One video to render."""

    def __init__(
        self, config: Config, renderer: Renderer, feed: PhotoFeed | VideoFeed, track: FaceTrack, count: int, speech: Speech, clock: Clock
    ):
        import torch

        from stages.faces import condition_points

        self.config, self.renderer, self.feed, self.track, self.speech, self.clock = config, renderer, feed, track, speech, clock
        self.count = count
        self.points = condition_points(track.align, track.landmarks)  # (T, 39, 2)
        # One noise for all frames: what changes between frames is then the speech (facts/field.md, shared noise).
        rng = np.random.Generator(np.random.Philox(key=config.seed))
        self.noise = torch.from_numpy(rng.standard_normal((1, *renderer.shape), np.float32)).to(renderer.device)
        self.previous: Tensor | None = None
        self.previous_source = -2

    def render(self, sink: Sink, folder: Path, runtime: Runtime) -> dict[str, Any]:
        """Send every output frame to `sink`; returns what out.json tells."""
        length = self.speech.frames
        order = pingpong(self.count, length)
        lost = self.track.status[order] == 0
        if lost.all():
            raise InputError("the face is lost in every frame that the sound needs")
        self.reference = self._reference_latent(order[~lost])
        frames = self.feed.frames(self.count, length, folder)
        size = 1 if self.config.reference == "progressive" else self.config.batch
        with runtime.reporter.progress("infer", length, "frames") as bar:
            for start in range(0, length, size):
                with self.clock("read"):
                    batch = [frame for _, frame in zip(range(min(size, length - start)), frames, strict=False)]
                for frame in self._render_batch(batch, order, start):
                    with self.clock("encode"):
                        sink.write(frame)
                    bar.advance(1)
        return self._facts(order, lost)

    def _reference_latent(self, usable: np.ndarray) -> Tensor:
        """z_r (1, C, h, w) of one frame of the person: its mouth more open than most, so that teeth may show."""
        from stages.faces import crop

        usable = np.unique(usable)
        points = self.track.landmarks[usable]
        opening = np.linalg.norm(points[:, LIP_INNER_TOP] - points[:, LIP_INNER_BOTTOM], axis=-1)
        scale = np.hypot(self.track.align[usable, 0, 0], self.track.align[usable, 1, 0])
        self.reference_frame = int(usable[np.argsort(opening * scale, kind="stable")[int(0.7 * (len(usable) - 1))]])
        with self.clock("read"):
            frame = next(f for i, f in enumerate(self.feed.once()) if i == self.reference_frame)
        picture = crop(frame, self.track.align[self.reference_frame], self.renderer.resolution)
        return self.renderer.crop(self.renderer.encode(self.renderer.pictures(picture[None])))

    def _render_batch(self, frames: list[np.ndarray], order: np.ndarray, start: int) -> list[np.ndarray]:
        """Generate and paste the mouths of output frames start, start + 1, ...; lost ones pass through."""
        import torch

        from stages.faces import crop, paste
        from stages.models.denoiser import Condition

        outputs = np.arange(start, start + len(frames))
        sources = order[outputs]
        seen = np.flatnonzero(self.track.status[sources] > 0)
        if not len(seen):
            self.previous = None
            return frames
        renderer, align = self.renderer, self.track.align[sources]
        with self.clock("crop"):
            crops = np.stack([crop(frames[i], align[i], renderer.resolution) for i in seen])
        with self.clock("encode latents"):
            whole = renderer.encode_masked(renderer.pictures(crops))  # (B, C, h, w)
            windows = self.speech.windows(outputs[seen])
            condition = Condition(
                masked=renderer.crop(whole),
                reference=self._references(sources[seen]),
                audio=torch.from_numpy(windows).to(renderer.device),
                landmarks=torch.from_numpy(self.points[sources[seen]]).to(renderer.device),
            )
        with self.clock("sample"):
            from stages.diffusion.render import SampleConfig

            noise = self.noise.expand(len(seen), -1, -1, -1)
            z = renderer.generate(noise, condition, SampleConfig(steps=self.config.steps, sampler=self.config.sampler))
        self.previous, self.previous_source = z[-1:], int(sources[seen[-1]])
        with self.clock("decode"):
            made = renderer.decode(whole, z)
        with self.clock("paste"):
            out = list(frames)
            for k, i in enumerate(seen):
                out[i] = paste(frames[i], made[k], align[i], renderer.alpha)
        return out

    def _references(self, sources: np.ndarray) -> Tensor:
        """z_r of each frame of a batch: (B, C, h, w)."""
        if self.config.reference == "progressive" and self.previous is not None:
            near = abs(int(sources[0]) - self.previous_source) <= 1
            same_shot = self.track.shot[sources[0]] == self.track.shot[max(self.previous_source, 0)]
            if near and same_shot:  # the generated frame before, never decoded in between
                return self.previous
        return self.reference.expand(len(sources), -1, -1, -1)

    def _facts(self, order: np.ndarray, lost: np.ndarray) -> dict[str, Any]:
        total = sum(self.clock.seconds.values())
        return {
            "frames": len(order),
            "fps": f"{self.feed.fps.numerator}/{self.feed.fps.denominator}",
            "size": list(self.feed.size),
            "seconds_sound": round(self.speech.seconds, 3),
            "coverage": round(float(1 - lost.mean()), 4),
            "frames_passed_through": ranges(np.flatnonzero(lost)),
            "reference_frames": self.count,
            "reference_frame": self.reference_frame,
            "people": self.track.people,
            "seconds": {k: round(v, 2) for k, v in self.clock.seconds.items()} | {"all": round(total, 2)},
        }


def ranges(numbers: np.ndarray) -> list[list[int]]:
    """Rising numbers as [first, last] runs."""
    if not len(numbers):
        return []
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return [[int(p[0]), int(p[-1])] for p in parts]


def _provenance(config: Config, inputs: Inputs, model: str) -> dict[str, Any]:
    settings = {k: (str(v) if isinstance(v, Path) else v) for k, v in asdict(config).items()}
    return {
        "model": model,
        "audio": {"name": Path(inputs.audio).name, "sha256": file_digest(Path(inputs.audio))},
        "reference": {"name": Path(inputs.reference).name, "sha256": file_digest(Path(inputs.reference))},
        "settings": settings,
        "note": METADATA["comment"],
    }


def _frames_artifact(job: Job, config: Config, inputs: Inputs, model: str, out: Path, runtime: Runtime) -> Report:
    """clips/<reference>-<hash>/frames/000000.png ..., for tools that want pictures."""
    facts = _provenance(config, inputs, model)
    sources = tuple(Input(role, "file", facts[role]["sha256"]) for role in ("audio", "reference")) + (Input("model", "denoiser", model),)
    with Store(out, kind="frames", stage="infer", code=CODE, config=config, runtime=runtime) as store:
        id = f"{Path(inputs.reference).stem}-{facts['reference']['sha256'][:8]}"
        for unit in store.plan([Unit(id, sources)]):
            with store.draft(unit) as draft:
                made = job.render(FrameWriter(draft.path), draft.path, runtime)
                made.pop("seconds")  # facts hold no time: the same inputs give the same artifact
                draft.facts |= made
        return store.seal()

