"""A reference of any length as a stream of exactly as many frames as the sound needs: forth and back, without a jump."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

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


class PhotoFeed:
    """A still picture, repeated."""

    def __init__(self, path: Path):
        self.frame = read_photo(path)
        self.fps, self.info, self.warning = PHOTO_RATE, None, ""

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self.frame.shape[1], self.frame.shape[0]

    def once(self) -> Iterator[np.ndarray]:
        yield self.frame

    def frames(self, count: int, length: int, folder: Path) -> Iterator[np.ndarray]:
        for _ in range(length):
            yield self.frame


class VideoFeed:
    """A video, played forth and back. Going back needs every frame at hand: they wait losslessly encoded on disk."""

    def __init__(self, path: Path):
        self.reader = VideoReader(path)
        self.fps, self.info = self.reader.info.fps, self.reader.info

    @property
    def warning(self) -> str:
        return self.reader.warning

    @property
    def size(self) -> tuple[int, int]:
        return self.info.width, self.info.height

    def once(self) -> Iterator[np.ndarray]:
        """Every frame, forwards."""
        return iter(self.reader)

    def frames(self, count: int, length: int, folder: Path) -> Iterator[np.ndarray]:
        """`length` frames of a video that has `count`; `folder` takes the temporary file when it must go back."""
        if length <= count:
            self.reader.frames = length
            yield from self.reader
            return
        with tempfile.TemporaryDirectory(dir=folder, prefix=".difftalk-") as temp:
            spool = Path(temp) / "spool.mp4"
            with VideoWriter(spool, fps=self.fps, size=self.size, lossless=True, preset="ultrafast", key_frames=15) as keep:
                for frame in self.reader:
                    keep.write(frame)
                    yield frame
            made = count
            while made < length:
                order = pingpong(count, min(length, made + max(1, 2 * (count - 1))))[made:]
                for frame in self._replay(spool, order):
                    yield frame
                made += len(order)

    def _replay(self, spool: Path, order: np.ndarray) -> Iterator[np.ndarray]:
        """Frames of the spool in `order`, which runs in steps of one, a chunk at a time."""
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


def open_feed(path: Path) -> PhotoFeed | VideoFeed:
    """The reference at `path`. Raises InputError when it is neither a photo nor a video that can be read."""
    return PhotoFeed(path) if is_photo(path) else VideoFeed(path)
