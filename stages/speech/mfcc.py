"""What Mozilla DeepSpeech 0.1.0 is fed: MFCC 26 at 50 Hz with 9 rows of context on each side, whitened.

Source: facts/difftalk-official.md section 6 (AD-NeRF, VOCA). Every number here is a trained network's contract.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stages.shapes import SAMPLE_RATE
from stages.speech.rows import HOP, count_rows, slice_padded

CEPSTRA = 26
CONTEXT = 9
"""Rows before and after the middle one."""
INPUT_WIDTH = (2 * CONTEXT + 1) * CEPSTRA
"""494 values into the network for each row."""
WINDOW = 400
"""Samples a row is computed from: 25 ms, starting (not centred) at its time."""
PREEMPHASIS = 0.97
CHUNK_ROWS = 1000
"""Rows computed at once: bounds the memory, changes nothing."""


def mfcc_rows(samples: np.ndarray) -> np.ndarray:
    """(n,) i16 at 16 kHz -> (K, 26) f64, row k from the samples 320 k .. 320 k + 399.

    Every second row of python_speech_features.mfcc(samples, numcep=26): computed at twice its hop, as nobody reads the
    others. Raises InputError as count_rows does.
    """
    count_rows(samples)
    tenths = 1 + max(0, -(-(len(samples) - WINDOW) // (HOP // 2)))  # rows of 10 ms that the library makes
    return np.concatenate(list(_chunks(samples, (tenths + 1) // 2)))


def _chunks(samples: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    from python_speech_features import mfcc

    for start in range(0, rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, rows)
        first, end = start * HOP, (stop - 1) * HOP + WINDOW
        piece = slice_padded(samples, first, end)
        # Pre-emphasis here, with the sample before the chunk; what lies after the sound stays zero, as in the library.
        piece[: len(samples) - first] -= PREEMPHASIS * slice_padded(samples, first - 1, end - 1)[: len(samples) - first]
        yield mfcc(piece, SAMPLE_RATE, winstep=HOP / SAMPLE_RATE, numcep=CEPSTRA, preemph=0)


def whitening(rows: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all values that `network_input` would stack, its padding zeros among them.

    (K, 26) -> two scalars, without building the (K, 494) matrix (700 MB for two hours).
    """
    k = np.arange(len(rows))
    # in how many stacked rows each one occurs: 19, fewer near the ends
    times = np.minimum(k + CONTEXT, len(rows) - 1) - np.maximum(k - CONTEXT, 0) + 1
    total = len(rows) * INPUT_WIDTH
    mean = float((times[:, None] * rows).sum()) / total
    zeros = total - int(times.sum()) * CEPSTRA
    variance = (float((times[:, None] * (rows - mean) ** 2).sum()) + zeros * mean**2) / total
    assert variance > 0, "a log energy and cepstra are never all one value"
    return mean, variance**0.5


def network_input(rows: np.ndarray, scale: tuple[float, float], start: int = 0, stop: int | None = None) -> np.ndarray:
    """Whitened context windows of the rows start .. stop - 1: (K, 26) -> (stop - start, 494) f32, oldest row first.

    `scale` is `whitening(rows)`: one mean and deviation for the whole clip, padding included.
    """
    stop = len(rows) if stop is None else stop
    lo, hi = start - CONTEXT, stop + CONTEXT
    padded = np.zeros((hi - lo, CEPSTRA))
    padded[max(lo, 0) - lo : min(hi, len(rows)) - lo] = rows[max(lo, 0) : hi]
    mean, deviation = scale
    padded = ((padded - mean) / deviation).astype(np.float32)
    stacked = np.lib.stride_tricks.sliding_window_view(padded, 2 * CONTEXT + 1, axis=0)  # (stop - start, 26, 19)
    return stacked.transpose(0, 2, 1).reshape(stop - start, INPUT_WIDTH)
