"""A reference as a stream of any of its frames in any order of small steps: forth and back without a jump, from anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from stages.media.probe import VideoInfo
from stages.media.video import VideoReader, VideoWriter, is_photo, read_photo

PHOTO_RATE = Fraction(25)
CHUNK_BYTES = 256 << 20
"""Frames held at once while going backwards."""


def pingpong(count: int, length: int) -> np.ndarray:
    """Source frame of each output frame: 0 1 .. n-1 n-2 .. 1 0 1 ..: (length,) i64."""
    if count == 1:
        return np.zeros(length, np.int64)
    period = 2 * (count - 1)
    at = np.arange(length) % period
    return np.where(at < count, at, period - at)


class Feed(Protocol):
    """Where a reference's frames come from."""

    fps: Fraction
    info: VideoInfo | None
    """Colour tags and the like, where the reference is a video."""
    warning: str
    """What was wrong with the file, known after a loop over it."""

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        ...

    def once(self) -> Iterator[np.ndarray]:
        """Every frame, forwards: (H, W, 3) u8, read-only."""
        ...

    def play(self, order: np.ndarray, folder: Path) -> Iterator[np.ndarray]:
        """The frames `order` (n,), each at most one away from the last; `folder` takes temporary files."""
        ...


class PhotoFeed:
    """A still picture, repeated."""

    def __init__(self, path: Path):
        self.frame = read_photo(path)
        self.fps, self.info, self.warning = PHOTO_RATE, None, ""

    @property
    def size(self) -> tuple[int, int]:
        return self.frame.shape[1], self.frame.shape[0]

    def once(self) -> Iterator[np.ndarray]:
        yield self.frame

    def play(self, order: np.ndarray, folder: Path) -> Iterator[np.ndarray]:
        for _ in order:
            yield self.frame


class VideoFeed:
    """A video, or its part from `start_seconds` on. Going back needs every frame at hand: they wait losslessly encoded on disk."""

    def __init__(self, path: Path, *, start_seconds: float = 0.0, seconds: float | None = None):
        self.path, self.start_seconds, self.seconds = path, start_seconds, seconds
        self.reader = VideoReader(path, start_seconds=start_seconds)
        self.fps, self.info = self.reader.info.fps, self.reader.info
        self.reader.frames = self._limit()
        self._spool: tuple[tempfile.TemporaryDirectory[str], Path] | None = None

    def _limit(self) -> int | None:
        return None if self.seconds is None else max(1, round(self.seconds * self.fps))

    @property
    def warning(self) -> str:
        return self.reader.warning

    @property
    def size(self) -> tuple[int, int]:
        return self.info.width, self.info.height

    def once(self) -> Iterator[np.ndarray]:
        return iter(self.reader)

    def play(self, order: np.ndarray, folder: Path) -> Iterator[np.ndarray]:
        order = np.asarray(order)
        try:
            for run in np.split(order, _turns(order)):
                if len(run) == 1 or run[1] > run[0]:
                    start = self.start_seconds + (int(run[0]) / self.fps)
                    yield from VideoReader(self.path, info=self.reader.media, start_seconds=float(start), frames=len(run))
                else:
                    yield from self._backwards(run, self._kept(int(order.max()) + 1, folder))
        finally:
            self.close()

    def close(self) -> None:
        """Remove the temporary file."""
        if self._spool:
            self._spool[0].cleanup()
            self._spool = None

    def _kept(self, count: int, folder: Path) -> Path:
        """The first `count` frames in a file that is quick to jump about in."""
        if not self._spool:
            temp = tempfile.TemporaryDirectory(dir=folder, prefix=".difftalk-")
            self._spool = temp, Path(temp.name) / "spool.mp4"
            source = VideoReader(self.path, info=self.reader.media, start_seconds=self.start_seconds, frames=count)
            with VideoWriter(self._spool[1], fps=self.fps, size=self.size, lossless=True, preset="ultrafast", key_frames=15) as keep:
                for frame in source:
                    keep.write(frame)
        return self._spool[1]

    def _backwards(self, order: np.ndarray, spool: Path) -> Iterator[np.ndarray]:
        """Frames of the spool in the falling `order`, a chunk at a time."""
        step = max(2, CHUNK_BYTES // (3 * self.size[0] * self.size[1]))
        for i in range(0, len(order), step):
            part = order[i : i + step]
            low, high = int(part.min()), int(part.max())
            # a quarter frame early: safe against rounding of the time, and too little to repeat a frame
            reader = VideoReader(spool, start_seconds=max(0.0, (low - 0.25) / float(self.fps)), frames=high - low + 1)
            held = list(reader)
            assert len(held) == high - low + 1, (len(held), low, high)
            for k in part:
                yield held[k - low]


def _turns(order: np.ndarray) -> np.ndarray:
    """Where a walk of single steps turns round: the first place of each new run."""
    if len(order) < 3:
        return np.zeros(0, np.int64)
    steps = np.diff(order)
    assert (np.abs(steps) == 1).all(), "a video is walked in single steps"
    return np.flatnonzero(steps[1:] != steps[:-1]) + 2


class ArrayFeed:
    """Frames that lie in memory or in a mapped file: the crops of a preprocessed clip."""

    def __init__(self, frames: np.ndarray, fps: Fraction):
        self.frames, self.fps = frames, fps
        self.info, self.warning = None, ""

    @property
    def size(self) -> tuple[int, int]:
        return self.frames.shape[2], self.frames.shape[1]

    def once(self) -> Iterator[np.ndarray]:
        return iter(self.frames)

    def play(self, order: np.ndarray, folder: Path) -> Iterator[np.ndarray]:
        for k in order:
            yield self.frames[k]


def open_feed(path: Path, *, start_seconds: float = 0.0, seconds: float | None = None) -> PhotoFeed | VideoFeed:
    """The reference at `path`. Raises InputError when it is neither a photo nor a video that can be read."""
    return PhotoFeed(path) if is_photo(path) else VideoFeed(path, start_seconds=start_seconds, seconds=seconds)
