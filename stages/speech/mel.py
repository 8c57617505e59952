"""Log-mel rows: the encoder that needs no weights."""

from __future__ import annotations

import math

import numpy as np

from stages.shapes import SAMPLE_RATE
from stages.speech.rows import HOP, count_rows, slice_padded

BINS = 80
WINDOW = 400
"""Samples in a row's window, 25 ms as in Whisper and MFCC."""
FFT = 1024
"""Points: at 512 the lowest of 80 filters would be narrower than one bin of the spectrum, and empty."""
LOUDEST_ROWS = 10
"""A clip's level is that of its 10th loudest row: a click does not set it, and neither do long pauses."""
LEVEL_FLOOR = 1e-3
"""Level (rms, of full scale 1) under which a clip is not raised further: -60 dB is the noise of a room, not speech."""
DECADES = 8.0
"""Power range kept below the clip's level (Whisper's)."""
CHUNK_ROWS = 1000
"""Rows computed at once: bounds the memory, changes nothing."""


def log_mel(samples: np.ndarray) -> np.ndarray:
    """(n,) i16 at 16 kHz -> (R, 80) f32 in [-1, 1]; row r describes the 25 ms around r * 20 ms, zeros outside the sound.

    Whisper's scaling, log10 power clipped 8 decades below the top and then (x + 4) / 4, except that the top is the level
    of the clip's 10th loudest row and not the largest value: a recording at rms 0.004 and the same one at 0.1 give the
    same rows, one pop does not push the speech down, and digital silence is -1 everywhere. A constant offset is removed.
    Raises InputError as count_rows does.
    """
    count = count_rows(samples)
    offset = float(np.median(samples))  # not the mean, which one pop can shift: pauses lie at the offset
    x, mean_square = np.empty((count, BINS), np.float32), np.empty(count)
    for start in range(0, count, CHUNK_ROWS):
        part = slice(start, min(start + CHUNK_ROWS, count))
        x[part], mean_square[part] = _log_powers(samples, offset, part.start, part.stop)
    tenth = max(count - LOUDEST_ROWS, 0)
    level = max(float(np.partition(mean_square, tenth)[tenth]), LEVEL_FLOOR**2)
    x -= math.log10(level * _energy_of_unit_rms())
    x.clip(-DECADES, 0, out=x)  # in place: two hours of rows are 115 MB
    x /= DECADES / 2
    x += 1
    return x


def _log_powers(samples: np.ndarray, offset: float, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the rows start .. stop - 1: log10 mel powers (n, 80) and mean squares (n,), f64, for samples in -1 .. 1."""
    from python_speech_features import fbank

    first, end = start * HOP - WINDOW // 2, (stop - 1) * HOP + WINDOW // 2
    piece = slice_padded(samples, first, end)
    inside = slice(max(0, -first), max(0, len(samples) - first))
    piece[inside] -= offset
    power, energy = fbank(
        piece / 32768, SAMPLE_RATE, WINDOW / SAMPLE_RATE, HOP / SAMPLE_RATE, BINS, FFT, preemph=0, winfunc=np.hanning
    )
    assert len(power) == stop - start, (len(power), start, stop)
    return np.log10(np.maximum(power, 1e-30)), energy / _energy_of_unit_rms()


def _energy_of_unit_rms() -> float:
    """Sum of the library's one-sided power spectrum (1/FFT |X|^2) for a windowed frame of rms 1 (Parseval)."""
    return 0.5 * float((np.hanning(WINDOW) ** 2).sum())
