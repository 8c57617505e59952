"""One clip of one method: opened, its face found, scored, and written down. What `evaluate` runs in its workers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stages.artifacts import Draft, file_digest
from stages.errors import InputError
from stages.media.frames import FrameReader
from stages.media.pairs import VideoPair
from stages.media.probe import probe
from stages.media.video import VideoReader
from stages.metrics.names import METRICS, MODEL_ROWS, ROWS
from stages.metrics.pairs import Counts, describe, pair_frames
from stages.metrics.scorer import FRAME
from stages.runtime import Reporter, Runtime
from stages.shapes import SAMPLE_RATE

if TYPE_CHECKING:
    from stages.faces import FaceTrack
    from stages.faces.detect import FaceFinder, LandmarkTool
    from stages.metrics.heard import SyncMeter
    from stages.metrics.lpips import Lpips

SILENT = 33
"""Peak of i16 samples up to which a sound counts as none (-60 dB of full scale)."""
FRAME_SECONDS = 0.2
"""Whole frames are scored once in so long: each takes as long as ten face crops."""
QUALITY = 88
"""Of the strips' JPEG."""


@dataclass(frozen=True, kw_only=True)
class How:
    """What the figures depend on (see evaluate.Config)."""

    chosen: tuple[str, ...] = METRICS
    resolution: int = 256
    mouth_resolution: int = 128
    lpips_seconds: float = 0.08
    vgg_seconds: float = 1.0
    row_seconds: float = 3.0
    landmarks: LandmarkTool = "dlib"
    face: int = 0


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to score one clip of one method."""

    pair: VideoPair
    how: How
    method: str
    lpips: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    """lpips_alex and lpips_vgg: trunk and heads."""
    model: Path | None = None
    """Denoiser artifact, for the rows that a model draws."""
    syncnet: Path | None = None
    other: Path | None = None
    """The video whose sound is the wrong one."""
    device: str = "cpu"
    """auto: what the worker's machine has."""
    threads: int | None = None
    """Processor threads to use; None leaves them as they are."""


def score_pair(job: Job, draft: Draft, tick: Callable[[float], None]) -> None:
    """Score one clip into draft.path. Raises InputError when it cannot be scored, saying why."""
    from stages.metrics.clip import ClipScorer, Tools

    pair, how = job.pair, job.how
    if pair.problem:
        raise InputError(pair.problem)
    assert pair.generated and pair.truth, pair
    _limit_threads(job)
    truth = VideoReader(pair.truth)
    track = find_face(truth, how, tick)
    own, fps = read_sound(pair.truth), float(truth.info.fps)
    device = str(Runtime(device=job.device).torch_device()) if job.lpips or job.syncnet else "cpu"
    sound, whose = choose_sound(job, own)
    tools = Tools(
        known=_known(pair.truth, pair.truth.stat().st_mtime_ns, how.landmarks, how.face, how.resolution),
        lpips={name: _lpips(name.removeprefix("lpips_"), files, device) for name, files in job.lpips.items()},
        finder=_finder(how.landmarks) if {"mouth", "identity", "sync"} & set(how.chosen) else None,
        meter=_meter(job, device, track, fps) if "sync" in how.chosen and sound is not None else None,
    )
    film = Film(job, truth, track, own, draft.path)
    rests = {"lpips_alex": how.lpips_seconds, "lpips_vgg": how.vgg_seconds, FRAME: FRAME_SECONDS}
    scorer = ClipScorer(
        how.chosen, track, tools, resolution=how.resolution, mouth_resolution=how.mouth_resolution,
        every={name: max(1, round(seconds * fps)) for name, seconds in rests.items()}, frames=film.expected,
    )  # fmt: skip
    for fake, true in film.frames(tick):
        scorer.add(fake, true)
    if not scorer.faces:
        raise InputError(f"{pair.name}: no face in the {film.counts.used} frames that could be compared")
    heard = None if sound is None else sound[: round(len(scorer.rows) / fps * SAMPLE_RATE)]
    sync = tools.meter.score(heard) if tools.meter and heard is not None else None
    np.save(draft.path / "per_frame.npy", scorer.table())
    np.save(draft.path / "motion.npy", scorer.motion.maps())
    if sync:
        np.save(draft.path / "sync.npy", sync.curve)
    _save_picture(draft.path / "strip.jpg", scorer.strip())
    draft.facts |= {
        "method": job.method,
        "files": {"generated": None if job.method in ROWS else pair.generated.name, "truth": pair.truth.name},
        "metrics": scorer.metrics(sync),
        "columns": list(scorer.columns),
        "frames": vars(film.counts) | {"face": scorer.faces},
        "fps": f"{truth.info.fps.numerator}/{truth.info.fps.denominator}",
        "sound": whose,
        "notes": film.notes(scorer.faces),
        "problems": _problems(job, own, sync is not None),
    }


class Film:
    """The frames of a job's method beside the true ones, and what there is to say about them."""

    def __init__(self, job: Job, truth: VideoReader, track: FaceTrack, own: np.ndarray | None, folder: Path):
        self.job, self.truth, self.track, self.own, self.folder = job, truth, track, own, folder
        self.counts = Counts()
        self.generated = open_generated(job.pair.generated) if job.method not in ROWS and job.pair.generated else None

    @property
    def expected(self) -> int:
        """About how many frames there will be to compare."""
        fps, whole = float(self.truth.info.fps), len(self.track.status)
        if self.generated:
            return max(1, min(whole, round((self.generated.seconds or whole / fps) * fps)))
        return whole if self.job.method not in MODEL_ROWS else min(whole, max(1, round(self.job.how.row_seconds * fps)))

    def frames(self, tick: Callable[[float], None]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(generated, true) frames in order."""
        true = _ticking(self.truth, len(self.track.status), tick)
        if self.generated:
            yield from pair_frames(self.generated, true, (self.generated.fps, self.truth.fps), self.counts)
            return
        for pair in self._row(true):
            self.counts.used = self.counts.generated = self.counts.truth = self.counts.used + 1
            yield pair

    def _row(self, true: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        from stages.metrics import rows

        method, how, track, fps = self.job.method, self.job.how, self.track, self.truth.info.fps
        if method == "ground_truth":
            return rows.ground_truth(true)
        if method in ("copy_baseline", "turned_copy"):
            return rows.copy_baseline(self.truth.path, true, track, fps, how.resolution, turned=method == "turned_copy")
        assert self.job.model, method
        model, count = _opened(self.job.model, self.job.device), self.expected
        if method == "autoencoder":
            return rows.reconstruction(model[0], (frame for frame, _ in zip(true, range(count), strict=False)), track)
        samples = round(count / fps * SAMPLE_RATE)
        sound = np.zeros(samples, np.int16)
        if method == "wrong_audio":
            other = read_sound(self.job.other) if self.job.other else None
            sound = rows.other_sound(self.own if self.own is not None else sound, other, samples)
        return rows.driven(model, self.truth.path, true, track, sound, self.folder)

    def notes(self, faces: int) -> list[str]:
        """What a reader should know of this clip's figures; empty when all went plainly."""
        sides = [(reader, side) for reader, side in ((self.generated, "generated"), (self.truth, "truth")) if reader]
        notes = []
        if self.generated:
            sizes, rates = [r.size for r, _ in sides], [r.fps for r, _ in sides]
            notes = describe((sizes[0], sizes[1]), (rates[0], rates[1]), self.counts)
        for reader, side in sides:
            notes += [f"{side}: damaged: {reader.warning}"] if reader.warning else []
            notes += [f"{side}: variable frame rate, read at a constant {reader.fps}"] if reader.variable else []
        if faces < self.counts.used:
            missing = self.counts.used - faces
            notes.append(f"face: {missing} of {self.counts.used} frames show none; only the whole frame is scored there")
        return notes


def open_generated(path: Path) -> VideoReader | FrameReader:
    """A film, or a clip of a frames artifact."""
    return FrameReader(path) if path.is_dir() else VideoReader(path)


def find_face(reader: VideoReader, how: How, tick: Callable[[float], None]) -> FaceTrack:
    """The chosen face through the whole of `reader`, remembered by content. Raises InputError when there is none."""
    from stages.dubbing.reference import recall, remember, track_place
    from stages.faces import FaceConfig, locate_face

    expected = max(1, round((reader.media.seconds or 1.0) * float(reader.info.fps)))
    faces = FaceConfig(landmarks=how.landmarks, face=how.face)
    kept = track_place(file_digest(reader.path), faces)
    if found := recall(kept):
        tick(0.5)
        return found[0]
    try:
        frames = _ticking(reader, expected, tick)
        track = locate_face(frames, float(reader.info.fps), faces, Reporter(), _finder(how.landmarks))
    except InputError as error:
        raise InputError(f"{reader.path.name}: {error}", detail=error.detail) from error
    remember(kept, track, len(track.status), reader.warning)
    return track


def read_sound(path: Path) -> np.ndarray | None:
    """The film's sound, (n,) i16 at 16 kHz; None where it has none, or nothing in it can be heard."""
    from stages.media.audio import read_audio

    try:
        info = probe(path)
        samples = read_audio(path, info=info) if info.audio else np.zeros(0, np.int16)
    except InputError:
        return None
    return samples if len(samples) and int(np.abs(samples.astype(np.int32)).max()) > SILENT else None


def choose_sound(job: Job, own: np.ndarray | None) -> tuple[np.ndarray | None, str]:
    """What lips are compared with: the generated film's own sound where it has any, for that is what is heard; else the truth's.

    The standing rows are compared with the truth's sound: a wrong sound must not look in sync with it.
    """
    if job.method not in ROWS and job.pair.generated and (found := read_sound(job.pair.generated)) is not None:
        return found, "generated"
    return own, "none" if own is None else "truth"


def _problems(job: Job, own: np.ndarray | None, measured: bool) -> list[str]:
    """What could not be scored although it was asked for."""
    name = job.pair.truth.name if job.pair.truth else job.pair.name
    if own is None and ("sync" in job.how.chosen or job.method == "wrong_audio"):
        return [f"{name}: the ground truth is silent; sync is not measured" + ("" if not measured else " against it")]
    if "sync" in job.how.chosen and not measured:
        return [f"{name}: under a second of face and sound to compare; sync is not measured"]
    return []


def _meter(job: Job, device: str, track: FaceTrack, fps: float) -> SyncMeter:
    from stages.metrics import heard

    if job.syncnet:
        from stages.metrics.syncnet import boxes

        return heard.SyncNetMeter(_syncnet(job.syncnet, device), boxes(track.landmarks), fps)
    return heard.ExpertMeter(job.how.resolution, fps)


def _ticking(reader: VideoReader, total: int, tick: Callable[[float], None]) -> Iterator[np.ndarray]:
    """The reader's frames; each of the two passes over the truth is half of a clip's work."""
    for frame in reader:
        yield frame
        tick(0.5 / total)


def _limit_threads(job: Job) -> None:
    """Several workers share the processors; alone, a process may use them all."""
    if job.threads is None:
        return
    import cv2

    cv2.setNumThreads(job.threads)
    if job.lpips or job.model or job.syncnet:
        import torch

        torch.set_num_threads(job.threads)


def _save_picture(path: Path, picture: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(picture).save(path, quality=QUALITY)


# -- opened once a process


@functools.lru_cache(maxsize=2)
def _lpips(network: Literal["alex", "vgg"], files: tuple[Path, ...], device: str) -> Lpips:
    from stages.metrics.lpips import Lpips

    return Lpips(*files, network).to(device)


@functools.lru_cache(maxsize=4)
def _known(truth: Path, changed: int, landmarks: str, face: int, resolution: int) -> dict[tuple[str, int], np.ndarray]:
    return {}


@functools.lru_cache(maxsize=1)
def _finder(tool: LandmarkTool) -> FaceFinder:
    from stages.faces.detect import make_finder

    return make_finder(tool)  # reading its 122 MB takes a second, as long as a short clip


@functools.lru_cache(maxsize=1)
def _opened(model: Path, device: str) -> Any:
    from stages.dubbing.model import load_model

    return load_model(model, Runtime(device=device))


@functools.lru_cache(maxsize=1)
def _syncnet(path: Path, device: str) -> Any:
    from stages.metrics.syncnet import load_syncnet

    return load_syncnet(path, device)
