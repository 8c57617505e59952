from __future__ import annotations

import numpy as np

from stages.speech.training.augment import augment, respeed
from tests.speech.sounds import speech_like


def test_augmented_speech_keeps_its_length_and_its_times():
    x = speech_like(3.0)
    rows = np.abs(x[: len(x) // 320 * 320].reshape(-1, 320).astype(float)).mean(1)
    correlations = []
    for seed in range(30):
        y = augment(x, np.random.default_rng(seed), background=speech_like(1.0, seed=9))
        assert y.dtype == np.int16 and len(y) == len(x) and y.any()
        other = np.abs(y[: len(y) // 320 * 320].reshape(-1, 320).astype(float)).mean(1)
        correlations.append([np.corrcoef(rows, np.roll(other, k))[0, 1] for k in (-10, 0, 10)])
    earlier, same, later = np.mean(correlations, 0)
    assert same > earlier + 0.2 and same > later + 0.2


def test_the_same_seed_gives_the_same_sound_and_another_seed_another():
    x = speech_like(1.0)
    a, b, c = (augment(x, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_faster_is_shorter_and_higher():
    n = np.arange(16_000)
    tone = (10_000 * np.sin(2 * np.pi * 400 * n / 16_000)).astype(np.int16)
    y = respeed(tone, 1.25)
    assert abs(len(y) - 12_800) <= 1
    assert abs(np.abs(np.fft.rfft(y[:12_800])).argmax() * 16_000 / 12_800 - 500) < 3
