"""How sound is counted in feature rows: 50 a second, the same number whichever encoder makes them."""

from __future__ import annotations

import numpy as np

from stages.errors import InputError
from stages.shapes import FEATURE_RATE, SAMPLE_RATE

HOP = SAMPLE_RATE // FEATURE_RATE
"""Samples from one row to the next: 20 ms."""
assert HOP * FEATURE_RATE == SAMPLE_RATE


def count_rows(samples: np.ndarray) -> int:
    """R = round(50 * seconds) for (n,) i16 mono at 16 kHz (the AD-NeRF contract).

    Raises InputError for another shape or type, and for sound too short to fill half a row (10 ms).
    """
    if samples.ndim != 1 or samples.dtype != np.int16:
        raise InputError(
            f"speech features need mono int16 samples (n,) at {SAMPLE_RATE} Hz, got {samples.dtype} of shape {samples.shape}; "
            "stages.media.read_audio gives them from any file"
        )
    rows = round(len(samples) / HOP)
    if rows == 0:
        milliseconds = 1000 * len(samples) / SAMPLE_RATE
        raise InputError(f"the sound is empty or too short ({milliseconds:.1f} ms): it needs more than 10 ms")
    return rows


def fit_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """(K, F) -> (count, F): rows past the end are cut, missing ones repeat the last.

    This is what AD-NeRF's linear interpolation from 50 Hz to 50 Hz comes to: whole positions, the last value held.
    """
    return rows[np.minimum(np.arange(count), len(rows) - 1)]


def slice_padded(samples: np.ndarray, start: int, stop: int) -> np.ndarray:
    """samples[start:stop] as f64, with zeros where that lies outside the sound."""
    out = np.zeros(stop - start)
    lo, hi = max(start, 0), min(stop, len(samples))
    if lo < hi:
        out[lo - start : hi - start] = samples[lo:hi]
    return out
