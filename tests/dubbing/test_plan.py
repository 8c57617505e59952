"""Where a film is cut, and how the mouth comes and goes."""

from fractions import Fraction

import numpy as np

from stages.dubbing.plan import cut, fade
from stages.dubbing.speech import loudness


def test_segments_cover_all_and_end_in_silence():
    rng, fps = np.random.default_rng(0), Fraction(25)
    loud = rng.uniform(500, 1000, 2000)
    loud[[240, 241, 242, 700, 701, 702]] = 0
    segments = cut(loud, fps)
    assert segments[0][0] == 0 and segments[-1][1] == 2000
    assert all(a[1] == b[0] for a, b in zip(segments, segments[1:], strict=False))
    assert all(200 <= b - a <= 300 for a, b in segments[:-1]) and segments[-1][1] - segments[-1][0] <= 300
    assert segments[0][1] == 241
    assert cut(loud[:250], fps) == ((0, 250),)


def test_the_mouth_fades_towards_frames_without_it_but_not_over_a_cut():
    usable = np.ones(30, bool)
    usable[10:14] = False
    presence = fade(usable, np.zeros(30, int), 3)
    assert (presence[10:14] == 0).all() and presence[0] == presence[29] == 1
    assert np.allclose(presence[6:10], [1, 0.75, 0.5, 0.25]) and np.allclose(presence[14:18], [0.25, 0.5, 0.75, 1])
    cut_there = fade(usable, (np.arange(30) >= 14).astype(int), 3)
    assert cut_there[14] == 1 and cut_there[9] == 0.25


def test_loudness_is_the_frames_own():
    samples = np.zeros(16_000, np.int16)
    samples[6400:7040] = 1000
    found = loudness(samples, 25, Fraction(25))
    assert found[10] == 1000 and found.sum() == 1000 and len(loudness(samples, 30, Fraction(30000, 1001))) == 30
