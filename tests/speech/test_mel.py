from __future__ import annotations

import numpy as np
import pytest

from stages.errors import InputError
from stages.speech import mel as module
from stages.speech.mel import BINS, FFT, log_mel
from tests.speech.sounds import RATE, click, speech_like


def test_shape_type_and_bounds():
    x = log_mel(speech_like(2.0, noise=0.01))
    assert x.shape == (100, 80) and x.dtype == np.float32
    assert x.min() >= -1 and 0.3 < x.max() <= 1


def test_no_filter_is_empty():
    from python_speech_features import get_filterbanks

    assert get_filterbanks(BINS, FFT, RATE).sum(axis=1).min() > 0


@pytest.mark.parametrize("row", [0, 1, 10, 49])
def test_a_row_is_centred_on_its_time(row):
    x = log_mel(click(1.0, row * 0.02 + (0.0005 if row == 0 else 0))).mean(axis=1)
    assert x.argmax() == row
    assert (np.delete(x, row) == -1).all()  # 10 ms away from the 25 ms windows of both neighbours


def test_a_click_between_two_rows_is_shared_evenly():
    x = log_mel(click(1.0, 0.21)).mean(axis=1)
    assert x[10] > -1 and abs(x[10] - x[11]) < 0.05


def test_a_tone_lies_in_the_band_of_its_frequency():
    t = np.arange(RATE) / RATE
    centres = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), BINS + 2)[1:-1] / 2595) - 1)
    for hertz in (300, 1000, 3000):
        x = log_mel((8000 * np.sin(2 * np.pi * hertz * t)).astype(np.int16))[25]
        assert abs(centres[x.argmax()] - hertz) < 40 + 0.05 * hertz


def test_digital_silence_is_minus_one_everywhere():
    for n in (200, 16000, 100_000):
        assert (log_mel(np.zeros(n, np.int16)) == -1).all()


def test_a_constant_offset_is_silence_too_and_is_removed_under_speech():
    assert (log_mel(np.full(16000, 5000, np.int16)) == -1).all()
    x = speech_like(2.0, rms=0.05, noise=0.01)
    assert np.abs(log_mel(x + np.int16(3000)) - log_mel(x)).max() < 0.01


def test_a_very_quiet_recording_gives_the_same_rows():
    loud, quiet = (speech_like(4.0, rms=rms, noise=0.02) for rms in (0.1, 0.004))
    a, b = log_mel(loud), log_mel(quiet)
    assert np.abs(a - b).mean() < 0.01 and np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999


def test_faint_noise_is_not_raised_to_speech():
    noise = np.random.default_rng(0).standard_normal(32000) * 32768
    at_floor, far_below = (log_mel((noise * rms).astype(np.int16)).mean() for rms in (1e-3, 3e-5))
    assert at_floor > 0.4  # as loud as speech of a quiet recording may be
    assert far_below < at_floor - 0.7  # 30 dB less is 3 decades of 4 to a unit


def test_a_pop_and_long_pauses_do_not_change_the_level():
    x = speech_like(2.0, rms=0.02, noise=0.02)
    popped = x.copy()
    popped[16000:16100] = 32767
    a, b = log_mel(x), log_mel(popped)
    away = np.r_[0:45, 55:100]
    assert np.abs(a - b)[away].max() < 0.12
    paused = log_mel(np.concatenate([np.zeros(20 * RATE, np.int16), x]))
    assert np.abs(paused[1001:] - a[1:]).max() < 0.01


def test_clipped_sound_is_still_bounded():
    x = log_mel(np.where(np.arange(16000) // 40 % 2, 32767, -32768).astype(np.int16))
    assert np.isfinite(x).all() and x.max() <= 1 and x.min() >= -1


def test_chunks_change_nothing(monkeypatch):
    x = speech_like(3.0, noise=0.01)
    whole = log_mel(x)
    monkeypatch.setattr(module, "CHUNK_ROWS", 7)
    np.testing.assert_allclose(log_mel(x), whole, atol=1e-6)


def test_sound_shorter_than_a_window_has_its_rows():
    assert log_mel(speech_like(0.05)).shape == (2, 80)
    assert log_mel(speech_like(0.02)).shape == (1, 80)


@pytest.mark.parametrize("n", [0, 1, 160])
def test_empty_or_tiny_sound_is_an_input_error(n):
    with pytest.raises(InputError, match="empty or too short"):
        log_mel(np.zeros(n, np.int16))
