"""Numbered PNG files: the pictures of a frames artifact, clips/<id>/frames/000000.png and on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from stages.artifacts.files import make_folder
from stages.errors import InputError
from stages.media.video import read_photo


class FrameFolder:
    """The folder `frames` of a clip in a frames artifact."""

    def __init__(self, clip: Path):
        self.path = clip / "frames"

    def file(self, index: int) -> Path:
        return self.path / f"{index:06d}.png"

    def __iter__(self) -> Iterator[np.ndarray]:
        """Every frame in order: (H, W, 3) u8. Raises InputError when there is none, or one is of another size."""
        index, shape = 0, None
        while self.file(index).is_file():
            frame = read_photo(self.file(index))
            if shape not in (None, frame.shape):
                size, others = (f"{s[1]}x{s[0]}" for s in (frame.shape, shape))
                raise InputError(f"{self.file(index)}: {size} among frames of {others}")
            shape = frame.shape
            yield frame
            index += 1
        if not index:
            raise InputError(f"{self.path}: no frame 000000.png")


class FrameReader(FrameFolder):
    """The same, read as a film is. Raises InputError when clip.json does not tell the rate and the length."""

    def __init__(self, clip: Path):
        super().__init__(clip)
        self.warning, self.variable = "", False
        try:
            facts = json.loads((clip / "clip.json").read_text(encoding="utf-8"))["facts"]
            self.fps, self.seconds = Fraction(facts["fps"]), float(int(facts["frames"]) / Fraction(facts["fps"]))
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise InputError(f"{clip}: clip.json states no frame rate and number of frames ({error}); make the frames again") from error

    @property
    def size(self) -> tuple[int, int]:
        """Width, height. Raises InputError when there is no frame."""
        height, width = next(iter(self)).shape[:2]
        return width, height


class FrameWriter:
    """Append frames to a clip's new folder; the same `write` as VideoWriter."""

    def __init__(self, clip: Path):
        self.folder, self.frames_written = FrameFolder(clip), 0
        make_folder(self.folder.path)

    def write(self, frame: np.ndarray) -> None:
        """Append one frame: (H, W, 3) u8."""
        from PIL import Image

        Image.fromarray(frame).save(self.folder.file(self.frames_written), compress_level=3)
        self.frames_written += 1
