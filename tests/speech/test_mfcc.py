from __future__ import annotations

import numpy as np
import pytest

from stages.errors import InputError
from stages.speech import mfcc as module
from stages.speech.mfcc import mfcc_rows, network_input, whitening
from stages.speech.rows import count_rows, fit_rows
from tests.speech.sounds import speech_like


def reference_mfcc(signal: np.ndarray) -> np.ndarray:
    """MFCC 26 of 16 kHz sound every 10 ms, from the textbook definitions: (N, 26) f64. Written without the library."""
    x = signal.astype(np.float64)
    x = np.concatenate([x[:1], x[1:] - 0.97 * x[:-1]])
    count = 1 if len(x) <= 400 else 1 + int(np.ceil((len(x) - 400) / 160))
    x = np.concatenate([x, np.zeros((count - 1) * 160 + 400 - len(x))])
    eps = np.finfo(float).eps
    # triangular filters between 28 points evenly spaced in mel from 0 to 8 kHz, snapped down to FFT bins
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    edges = np.floor(513 * 700 * (10 ** (mels / 2595) - 1) / 16000)
    bins = np.arange(257)[None]
    lo, mid, hi = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.where((bins >= lo) & (bins < mid), (bins - lo) / (mid - lo), 0)
    bank += np.where((bins >= mid) & (bins < hi), (hi - bins) / (hi - mid), 0)
    n, k = np.arange(26)[None], np.arange(26)[:, None]
    dct = np.cos(np.pi * k * (2 * n + 1) / 52) * np.where(k == 0, np.sqrt(1 / 26), np.sqrt(2 / 26))
    lift = 1 + 11 * np.sin(np.pi * np.arange(26) / 22)
    out = []
    for i in range(count):
        power = np.abs(np.fft.rfft(x[160 * i : 160 * i + 400], 512)) ** 2 / 512
        energy = power.sum()
        filtered = bank @ power
        row = lift * (dct @ np.log(np.where(filtered == 0, eps, filtered)))
        row[0] = np.log(energy if energy else eps)
        out.append(row)
    return np.array(out)


def reference_input(signal: np.ndarray) -> np.ndarray:
    """VOCA's network input, written plainly: every second row, 9 zero rows at both ends, 19 stacked, one mean and deviation."""
    rows = reference_mfcc(signal)[::2]
    padded = np.concatenate([np.zeros((9, 26)), rows, np.zeros((9, 26))])
    stacked = np.stack([padded[i : i + 19].reshape(-1) for i in range(len(rows))])
    return (stacked - stacked.mean()) / stacked.std()


# lengths around the places where the number of 10 ms rows turns odd or even, and where the last one is partial
LENGTHS = [16000, 161, 399, 400, 401, 560, 561, 720, 721, 881, 5000, 16159, 16161, 23456]


@pytest.mark.parametrize("n", LENGTHS)
def test_rows_equal_the_textbook_at_every_length(n):
    x = speech_like(1.6, noise=0.01)[:n]
    expected = reference_mfcc(x)[::2]
    got = mfcc_rows(x)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_rows_are_every_second_row_of_the_library():
    from python_speech_features import mfcc

    x = speech_like(2.0, noise=0.01)
    np.testing.assert_allclose(mfcc_rows(x), mfcc(x, numcep=26)[::2], atol=1e-9)


def test_chunks_change_nothing(monkeypatch):
    x = speech_like(3.0, noise=0.01)
    whole = mfcc_rows(x)
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    np.testing.assert_allclose(mfcc_rows(x), whole, atol=1e-9)


@pytest.mark.parametrize("seconds", [0.05, 0.2, 1.5])
def test_network_input_equals_the_reference(seconds):
    x = speech_like(seconds, noise=0.01)
    rows = mfcc_rows(x)
    got = network_input(rows, whitening(rows))
    assert got.dtype == np.float32 and got.shape == (len(rows), 494)
    np.testing.assert_allclose(got, reference_input(x), atol=1e-5)


def test_a_part_of_the_network_input_equals_that_part_of_the_whole():
    rows = mfcc_rows(speech_like(1.0))
    scale = whitening(rows)
    whole = network_input(rows, scale)
    for start, stop in ((0, 5), (3, 30), (20, len(rows)), (len(rows) - 1, len(rows))):
        assert np.array_equal(network_input(rows, scale, start, stop), whole[start:stop])


def test_digital_silence_is_finite():
    rows = mfcc_rows(np.zeros(16000, np.int16))
    assert np.isfinite(network_input(rows, whitening(rows))).all()


@pytest.mark.parametrize("seconds, expected", [(1.0, 50), (0.05, 2), (2.0, 100), (1.234, 62), (60.0, 3000)])
def test_fifty_rows_a_second(seconds, expected):
    assert count_rows(np.zeros(round(seconds * 16000), np.int16)) == expected


def test_fit_repeats_the_last_row_or_cuts():
    x = np.arange(6.0).reshape(3, 2)
    assert fit_rows(x, 5)[:, 0].tolist() == [0, 2, 4, 4, 4]
    assert fit_rows(x, 2)[:, 0].tolist() == [0, 2]
    # and is what AD-NeRF's interpolation gives
    times = np.arange(5) / 50
    assert np.array_equal(fit_rows(x, 5)[:, 1], np.interp(times, times[:3], x[:, 1]))


@pytest.mark.parametrize("n", [0, 1, 160])
def test_empty_or_tiny_sound_is_an_input_error(n):
    with pytest.raises(InputError, match="empty or too short"):
        mfcc_rows(np.zeros(n, np.int16))


@pytest.mark.parametrize("samples", [np.zeros(16000, np.float32), np.zeros((16000, 2), np.int16)])
def test_other_types_and_stereo_are_refused_with_what_to_do(samples):
    with pytest.raises(InputError, match="read_audio"):
        mfcc_rows(samples)
