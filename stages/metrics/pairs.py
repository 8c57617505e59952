"""Two videos on one clock: which generated frame belongs to which true one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

TIME_RULE = (
    "the truth's frames are the clock: each meets the generated frame nearest in time; "
    "what the longer video has after the shorter one's end is left out"
)
SIZE_RULE = (
    "a generated frame of another size is resized to the truth's (area average when it shrinks, bicubic when it grows)"
)


@dataclass
class Counts:
    """How many frames each video had, known when `pair_frames` has ended."""

    generated: int = 0
    truth: int = 0
    used: int = 0


def pair_frames(
    generated: Iterable[np.ndarray], truth: Iterable[np.ndarray], rates: tuple[Fraction, Fraction], counts: Counts
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(generated, true) frames by TIME_RULE, both streamed: one frame of each is held at a time.

    `rates` are the frames a second of generated and truth. Frames are u8 (H, W, 3) and are not changed. Both videos are
    read to their ends, so that `counts` is the whole truth about their lengths.
    """
    step = rates[0] / rates[1]
    source = iter(generated)
    held: np.ndarray | None = None
    ended = False
    for frame in truth:
        moment = counts.truth * step  # in generated frames
        counts.truth += 1
        while not ended and counts.generated <= int(moment + Fraction(1, 2)):
            following = next(source, None)
            if following is None:
                ended = True
            else:
                held, counts.generated = following, counts.generated + 1
        # The last frame is shown until its time is over, even where the one after it would have been nearer.
        if held is not None and (not ended or moment < counts.generated):
            counts.used += 1
            yield held, frame
    for _ in source:
        counts.generated += 1


def resize_to(frame: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`frame` (H, W, 3) u8 at the size of `like`, by SIZE_RULE; the same array where the sizes agree."""
    if frame.shape == like.shape:
        return frame
    import cv2

    height, width = like.shape[:2]
    shrinks = frame.shape[0] * frame.shape[1] > height * width
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def describe(sizes: tuple[tuple[int, int], tuple[int, int]], rates: tuple[Fraction, Fraction], counts: Counts) -> list[str]:
    """What had to be done to bring the two together, a line each; empty where they match. Sizes are (width, height)."""
    notes = []
    (width, height), (true_width, true_height) = sizes
    if sizes[0] != sizes[1]:
        notes.append(f"size: generated {width}x{height} resized to {true_width}x{true_height}")
        if abs(width * true_height - height * true_width) > max(true_width, true_height):
            notes.append("size: the two have different shapes, so the generated picture is stretched")
    if rates[0] != rates[1]:
        notes.append(f"fps: generated {float(rates[0]):.5g}, truth {float(rates[1]):.5g}; nearest frame in time")
    seconds = counts.generated / rates[0], counts.truth / rates[1]
    if counts.used < counts.truth or seconds[0] - seconds[1] >= 1 / rates[0]:
        notes.append(
            f"length: generated {float(seconds[0]):.2f} s, truth {float(seconds[1]):.2f} s; the common start is used"
        )
    return notes
