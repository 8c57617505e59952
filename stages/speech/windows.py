"""From feature rows at 50 Hz to one window of 16 rows per video frame, at any frame rate (paper 3.2; AD-NeRF)."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from stages.errors import UsageError
from stages.shapes import AUDIO_NEIGHBOURS, FEATURE_RATE, WINDOW_ROWS

NEIGHBOUR_RATE = 25
"""Hz: the temporal filter's windows lie 40 ms apart whatever the video's rate, so that it means the same everywhere."""


def frame_windows(rows: np.ndarray, num_frames: int, fps: Fraction | float, *, start: int = 0) -> np.ndarray:
    """Windows of the frames start .. start + num_frames - 1: (R, F) f32 at 50 Hz -> (T, 16, F) f32.

    Frame i is shown at i / fps seconds and its window covers the row positions 50 i / fps - 8 .. + 7, which is 320 ms
    around it. At 25 fps these are the rows 2i-8 .. 2i+7 exactly, AD-NeRF's windows. Outside the sound the rows are zero.
    (AD-NeRF also zeroes the sound's very last row, a slip in its windowing; here it is kept.)
    """
    return windows_at(rows, np.arange(start, start + num_frames), fps)


def windows_at(rows: np.ndarray, frames: np.ndarray, fps: Fraction | float) -> np.ndarray:
    """As frame_windows, for any frame indices: (R, F) f32, (T,) int -> (T, 16, F) f32."""
    rate = exact_rate(fps)
    # position = 50 i / fps as whole part and rest of integers: an hour of 29.97 fps drifts by nothing
    whole, rest = np.divmod(frames.astype(np.int64) * (FEATURE_RATE * rate.denominator), rate.numerator)  # (T,)
    weight = (rest / rate.numerator).astype(np.float32)[:, None, None]  # (T, 1, 1)
    at = whole[:, None] + np.arange(-(WINDOW_ROWS // 2), WINDOW_ROWS // 2)  # (T, S)
    left = _take(rows, at)  # (T, S, F)
    if not rest.any():
        return left
    return (1 - weight) * left + weight * _take(rows, at + 1)


def _take(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    inside = (at >= 0) & (at < len(rows))
    out = np.zeros((*at.shape, rows.shape[1]), np.float32)
    out[inside] = rows[at[inside]]
    return out


def neighbours(num_frames: int, fps: Fraction | float, count: int = AUDIO_NEIGHBOURS) -> np.ndarray:
    """Frames whose windows the temporal filter of frame k sees: (T, count) i32, -1 (zero-filled) outside the clip.

    k-4 .. k+3 in steps of 40 ms (the release at its 25 fps; AD-NeRF), each rounded to the nearest frame; frame k itself
    is column count // 2.
    """
    rate = exact_rate(fps)
    steps = np.arange(-(count // 2), count - count // 2)
    # floor(x + 1/2) in integers: the same offsets for every frame, never a tie decided by rounding noise
    offsets = (2 * steps * rate.numerator + NEIGHBOUR_RATE * rate.denominator) // (2 * NEIGHBOUR_RATE * rate.denominator)
    found = np.arange(num_frames)[:, None] + offsets
    return np.where((found >= 0) & (found < num_frames), found, -1).astype(np.int32)


def stored_neighbours(frames: np.ndarray, num_frames: int, fps: Fraction | float, count: int = AUDIO_NEIGHBOURS) -> np.ndarray:
    """`neighbours` for a clip that keeps only some frames: (T,) indices into its timeline -> (T, count) i32 positions in `frames`.

    -1 where the neighbour lies outside the clip or is not kept.
    """
    place = np.full(num_frames + 1, -1, np.int32)  # one more, so that -1 looks up -1
    place[frames] = np.arange(len(frames), dtype=np.int32)
    return place[neighbours(num_frames, fps, count)[frames]]


def exact_rate(fps: Fraction | float) -> Fraction:
    """Frames a second as a fraction (29.97002997 -> 30000/1001). Raises UsageError unless it is above 0 and finite."""
    if not 0 < fps < float("inf"):
        raise UsageError(f"{fps} frames a second: must be above 0")
    return fps if isinstance(fps, Fraction) else Fraction(fps).limit_denominator(1001)
