"""interpolate: more frames a second, by the motion between them (DESIGN, walk 6; paper 3.3 uses RIFE too).

Reads a video or a frames artifact and writes the same kind. Source frames are kept at their moments, sound, colour tags,
size and metadata as they are, and the length does not change: the last frame is held for as long as it was shown before.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from stages import weights
from stages.artifacts import Clip, Draft, Input, Store, Unit, Weight, file_digest, read_artifact, write_atomic, write_json
from stages.errors import ArtifactError, InputError, UsageError
from stages.media.frames import FrameFolder, FrameWriter
from stages.media.probe import probe, read_tags, snap_rate
from stages.media.video import VIDEO_SUFFIXES, VideoReader, VideoWriter, is_photo
from stages.runtime import Progress, Report, Runtime

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.rife import Rife

CODE = 1
WEIGHTS = "rife-hdv3"
MOST = 8
"""New frames for one old one, at most: beyond it there is nothing but guessing."""
SAME = 2
"""Grey levels that no pixel of two frames may differ by more to be the same picture: below what an encoder leaves."""
MARGIN = 64
"""Pixels around what moves that the network sees, so that the motion has room."""
LARGE = 2200
"""Pixels of the longer side from which on motion is looked for at half the size (RIFE's advice for 4K)."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the result depends on."""

    factor: int = 2
    """How many times the frame rate, 2 to 8. Powers of two are exact and fastest."""
    fps: float | None = None
    """Frames a second to reach instead; moments between are met to a sixteenth of a source frame."""
    cut_threshold: float = 18.0
    """Change between two frames, in grey levels of a thumbnail, that may be a cut; 255 sees none."""
    crf: int = 8
    """Quality of the H.264 encode: lower is better and larger."""
    lossless: bool = False
    """Keep every RGB value exactly (large; few players show it)."""

    def __post_init__(self) -> None:
        if not 2 <= self.factor <= MOST:
            raise UsageError(f"--factor {self.factor}: must be between 2 and {MOST}")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise UsageError(f"--fps {self.fps}: must be above 0")
        if not 0 <= self.cut_threshold <= 255:
            raise UsageError(f"--cut-threshold {self.cut_threshold}: must be between 0 and 255")
        if not 0 <= self.crf <= 51:
            raise UsageError(f"--crf {self.crf}: must be between 0 and 51")

    def target(self, source: Fraction, name: str) -> Fraction:
        """The new frame rate. Raises UsageError when --fps is not above the source's, or too far above."""
        if self.fps is None:
            return source * self.factor
        target = snap_rate(self.fps)
        if target <= source:
            raise UsageError(f"--fps {self.fps:g}: {name} already has {float(source):g} frames a second; give more")
        if target > MOST * source:
            raise UsageError(f"--fps {self.fps:g}: more than {MOST} times the {float(source):g} of {name}")
        return target


class Sink(Protocol):
    """Where frames go."""

    def write(self, frame: np.ndarray) -> None: ...


def run(config: Config, inputs: Path, out: Path, runtime: Runtime) -> Report:
    """Write `out`, a video with out.json beside it or a frames artifact, as `inputs` is one or the other.

    Raises InputError for a photo or a file without pictures, UsageError for a rate that is not above the source's,
    WeightsError when the network's weights are not at hand and cannot be fetched.
    """
    inputs, out = Path(inputs), Path(out)
    if inputs.is_dir():
        return _run_frames(config, inputs, out, runtime)
    return _run_video(config, inputs, out, runtime)


def _run_video(config: Config, path: Path, out: Path, runtime: Runtime) -> Report:
    if is_photo(path):
        raise InputError(f"{path}: a photo has nothing to interpolate between; give a video")
    media = probe(path)
    if media.video is None:
        raise InputError(f"{path}: no video stream; give a file with pictures")
    if out.suffix.lower() not in VIDEO_SUFFIXES:
        raise UsageError(f"{out}: cannot write {out.suffix or 'a name without suffix'}; use {' '.join(VIDEO_SUFFIXES)}")
    if out.exists() and out.samefile(path):
        raise UsageError(f"{out}: would overwrite its input; choose another -o")
    fps, info = config.target(media.video.fps, path.name), media.video
    if runtime.dry_run:
        runtime.reporter.log(f"make {out}: {float(info.fps):g} -> {float(fps):g} fps, {info.width}x{info.height}")
        return Report(out=out)
    if info.variable:
        runtime.reporter.warn(f"{path}: its frame rate varies; taken as a constant {float(info.fps):g}")
    interpolator = Interpolator(open_rife(runtime), fps / info.fps, config.cut_threshold)
    reader, started = VideoReader(path, info=media), time.monotonic()
    with write_atomic(out) as part, VideoWriter(
        part, fps=fps, size=(info.width, info.height), like=info, audio=path if media.audio else None,
        lossless=config.lossless, crf=config.crf,
        metadata=read_tags(path),
    ) as sink:  # fmt: skip
        total = float(media.seconds * fps) if media.seconds else None
        with runtime.reporter.progress("interpolate", total, "frames") as bar:
            _pour(interpolator.frames(reader), sink, bar.advance)
    if reader.warning:
        runtime.reporter.warn(f"{path}: damaged, {reader.frames_read} frames could be read ({reader.warning})")
    facts = asdict(interpolator.count) | {"fps": str(fps), "size": [info.width, info.height]}
    source = {"name": path.name, "sha256": file_digest(path)}
    network = asdict(_weight())
    write_json(out.with_suffix(".json"), facts | {"source": source, "settings": asdict(config), "weights": network})
    return Report(out=out, done=1, facts=facts | {"seconds": round(time.monotonic() - started, 2)})


def _run_frames(config: Config, root: Path, out: Path, runtime: Runtime) -> Report:
    clips = read_artifact(root, "frames").clips
    if out.exists() and out.samefile(root):
        raise UsageError(f"{out}: would overwrite its input; choose another -o")
    if out.suffix.lower() in VIDEO_SUFFIXES:
        raise UsageError(f"{out}: {root} holds frames, so that the result does too; give a folder's name")
    for clip in clips.values():
        config.target(_rate(clip), clip.id)  # a wrong --fps ends the run before anything is made
    units = [Unit(clip.id, (Input("frames", "frames", clip.digest),), clip, clip.id) for clip in clips.values()]
    with Store(
        out, kind="frames", stage="interpolate", code=CODE, config=config, runtime=runtime, weights=(_weight(),)
    ) as store:
        todo = store.plan(units)
        if todo and not runtime.dry_run:
            rife = open_rife(runtime)
            total = sum(_new_frames(config, unit.payload) for unit in todo)
            with runtime.reporter.progress("interpolate", total or None, "frames") as bar:
                for unit in todo:
                    with store.draft(unit) as draft:
                        _make_clip(config, unit.payload, draft, rife, bar)
        return store.seal()


def _make_clip(config: Config, clip: Clip, draft: Draft, rife: Rife, bar: Progress) -> None:
    """One clip of a frames artifact: new frames, new rate, and whatever else lies there (its sound) as it is."""
    source = _rate(clip)
    fps = config.target(source, clip.id)
    bar.note(clip.id)
    interpolator = Interpolator(rife, fps / source, config.cut_threshold)
    _pour(interpolator.frames(FrameFolder(clip.path)), FrameWriter(draft.path), bar.advance)
    for other in clip.path.iterdir():
        if other.is_file() and other.name != "clip.json":
            shutil.copyfile(other, draft.path / other.name)
    draft.facts |= clip.facts | asdict(interpolator.count) | {"fps": f"{fps.numerator}/{fps.denominator}"}


def _new_frames(config: Config, clip: Clip) -> float:
    return float(clip.facts.get("frames", 0) * config.target(_rate(clip), clip.id) / _rate(clip))


def _rate(clip: Clip) -> Fraction:
    try:
        return Fraction(clip.facts["fps"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise ArtifactError(f"clip {clip.id}: clip.json states no frame rate (fps); make the frames again") from None


def _pour(frames: Iterator[np.ndarray], sink: Sink, tick: Callable[[float], None]) -> None:
    for frame in frames:
        sink.write(frame)
        tick(1)


def _weight() -> Weight:
    file = weights.describe(WEIGHTS)
    return Weight(file.name, file.sha256, file.licence)


def open_rife(runtime: Runtime) -> Rife:
    """The network on the run's device. Raises WeightsError when its weights cannot be had."""
    path = weights.locate(WEIGHTS, offline=runtime.offline, reporter=runtime.reporter)
    from stages.models import rife

    return rife.load(path, runtime.torch_device())


@dataclass
class Count:
    """What happened to the frames."""

    frames_read: int = 0
    frames: int = 0
    """Written."""
    cuts: int = 0
    still: int = 0
    """Pairs of frames that were the same picture."""


@dataclass
class Interpolator:
    """Source frames in, `ratio` times as many out. Two source frames and what lies between them are held at a time."""

    rife: Rife
    ratio: Fraction
    cut_threshold: float = Config.cut_threshold
    count: Count = field(default_factory=Count)

    def frames(self, source: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """(H, W, 3) u8 in, ceil(n * ratio) of them out: output j shows source position j / ratio."""
        from stages.faces.shots import ShotDetector

        cuts, last = ShotDetector(self.cut_threshold), None
        for frame in source:
            cut = cuts.is_cut(frame)
            if last is not None:
                yield from self._pair(last, frame, cut)
            last = frame
            self.count.frames_read += 1
        if last is not None:
            yield from self._count(last for _ in timesteps(self.count.frames_read - 1, self.ratio))

    def _pair(self, a: np.ndarray, b: np.ndarray, cut: bool) -> Iterator[np.ndarray]:
        steps = timesteps(self.count.frames_read - 1, self.ratio)
        self.count.cuts += cut
        if cut:  # held until the very moment of the cut
            return self._count(a for _ in steps)
        return self._count(self.between(a, b, steps))

    def _count(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            self.count.frames += 1
            yield frame

    def between(self, a: np.ndarray, b: np.ndarray, steps: list[float]) -> list[np.ndarray]:
        """Frames at `steps` in 0..1 between two of one shot; only what moves goes through the network."""
        box = changed(a, b)
        if box is None:
            self.count.still += 1
            return [a for _ in steps]
        rows, columns = box
        if rows == slice(0, a.shape[0]) and columns == slice(0, a.shape[1]):
            return self._network(a, b, steps)
        frames = []
        for step, part in zip(steps, self._network(a[rows, columns], b[rows, columns], steps), strict=True):
            frame = (a if step < 0.5 else b).copy()
            frame[rows, columns] = part
            frames.append(frame)
        return frames

    def _network(self, a: np.ndarray, b: np.ndarray, steps: list[float]) -> list[np.ndarray]:
        shrink = 2 if max(a.shape) >= LARGE else 1
        made = self.rife.at(self._tensor(a), self._tensor(b), steps, shrink=shrink)
        return [(x[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy() for x in made]

    def _tensor(self, frame: np.ndarray) -> Tensor:
        """(H, W, 3) u8 -> (1, 3, H, W) f32 in 0..1 on the network's device."""
        import torch

        device = next(self.rife.parameters()).device
        return torch.tensor(frame, device=device).permute(2, 0, 1)[None].float() / 255


def timesteps(index: int, ratio: Fraction) -> list[float]:
    """Where output frames fall between source frames `index` and the next, as shares of the way: the first may be 0."""
    first, end = math.ceil(index * ratio), math.ceil((index + 1) * ratio)
    return [float(Fraction(j) / ratio - index) for j in range(first, end)]


def changed(a: np.ndarray, b: np.ndarray) -> tuple[slice, slice] | None:
    """Rows and columns that hold all change between (H, W, 3) u8 frames, with a margin; None for the same picture.

    The whole picture when the part would save little: a face that speaks before a still background is the case meant.
    """
    differ = (np.maximum(a, b) - np.minimum(a, b) > SAME).any(axis=2)  # (H, W)
    rows, columns = np.flatnonzero(differ.any(axis=1)), np.flatnonzero(differ.any(axis=0))
    if not len(rows):
        return None
    height, width = differ.shape
    top, bottom = max(0, rows[0] - MARGIN), min(height, rows[-1] + 1 + MARGIN)
    left, right = max(0, columns[0] - MARGIN), min(width, columns[-1] + 1 + MARGIN)
    if (bottom - top) * (right - left) > 0.75 * height * width:
        return slice(0, height), slice(0, width)
    return slice(int(top), int(bottom)), slice(int(left), int(right))
