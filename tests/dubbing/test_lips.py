"""What the lips are to do."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import torch

from stages.dubbing.lips import Lips, as_told, silent
from stages.faces.track import smooth_gaussian
from stages.models.denoiser import Denoiser, denoiser_config
from tests.faces.test_lips import face


def film(gaps):
    """A reference whose person's lips are `gaps` apart."""
    landmarks = np.concatenate([face(float(g)) for g in gaps])
    align = np.repeat(np.eye(2, 3, dtype=np.float32)[None], len(gaps), 0)
    return SimpleNamespace(
        usable=np.ones(len(gaps), bool), feed=SimpleNamespace(fps=Fraction(25)), track=SimpleNamespace(align=align, landmarks=landmarks)
    )


def sound(loudness):
    rng = np.random.default_rng(0)
    every = rng.standard_normal((len(loudness), 8, 16, 12)).astype(np.float32)
    return SimpleNamespace(fps=Fraction(25), frames=len(loudness), loudness=np.asarray(loudness, float), windows=lambda k: every[k])


def model():
    torch.manual_seed(0)
    made = Denoiser(denoiser_config("tiny", latent_channels=4, audio_features=12)).eval()
    made.lip_habits.copy_(torch.tensor([[0.1, 0.5, 0.3, 0.5], [0.06, 0.03, 0.02, 0.05], [0.02, 0.48, 0.3, 0.42]]))
    return made


def test_lips_move_as_the_person_does_and_rest_in_silence():
    gaps = 0.04 + 0.03 * np.sin(np.arange(100))  # 0.02 .. 0.14 of the crop's half-side
    loudness = np.r_[np.full(50, 5000.0), np.zeros(30), np.full(20, 5000.0)]
    shapes = Lips(model(), film(gaps), sound(loudness)).shapes
    assert shapes.shape == (100, 4) and shapes.dtype == np.float32
    rest = 2 * np.sort(gaps)[:10].mean()
    assert np.allclose(shapes[56:74, 0], rest, atol=0.002)
    twice = Lips(model(), film(gaps), sound(loudness), gain=2.0).shapes
    mean = 2 * gaps.mean()
    inside = slice(0, 40)
    assert np.allclose(twice[inside, 1] - 0.5, 2 * (shapes[inside, 1] - 0.5), atol=1e-4)
    assert (shapes[:, 0] >= 0).all() and abs(shapes[inside, 0].mean() - mean) < 0.08


def test_lips_close_further_than_they_open():
    own = np.array([[0.1, 0.5, 0.3, 0.5], [0.06, 0.03, 0.02, 0.05], [0.02, 0.48, 0.3, 0.42]], np.float32)
    up, down = as_told(own, np.ones((1, 4), np.float32))[0], as_told(own, -np.ones((1, 4), np.float32))[0]
    opening = np.array([True, False, False, True])  # the gap and the lower lip; width and upper lip go both ways alike
    assert ((own[0] - down)[opening] > 1.1 * (up - own[0])[opening]).all()
    assert np.allclose((own[0] - down)[~opening], (up - own[0])[~opening])
    assert np.allclose(as_told(own, np.ones((1, 4)), gain=0.0), own[0])


def test_a_photo_speaks_as_everybody_does():
    shapes = Lips(model(), film([0.01]), sound(np.full(60, 3000.0))).shapes
    assert shapes.shape == (60, 4) and np.ptp(shapes[:, 3]) > 0


def test_short_pauses_belong_to_words_and_a_sound_without_any_speech_is_silent():
    loud = np.full(100, 3000.0)
    loud[20:32] = 0  # half a second: people keep their lips open
    loud[60:80] = 5
    assert np.flatnonzero(silent(loud, 25.0)).tolist() == list(range(60, 80))
    assert silent(np.zeros(40), 25.0).all() and silent(np.full(40, 20.0), 25.0).all() and not silent(loud[:20], 25.0).any()


def test_smoothing_keeps_what_is_constant_and_takes_jitter_away():
    rng = np.random.default_rng(0)
    assert np.allclose(smooth_gaussian(np.full((9, 3), 0.5, np.float32), 0.6), 0.5)
    noise = rng.standard_normal((500, 2)).astype(np.float32)
    assert smooth_gaussian(noise, 1.0).std() < 0.7 * noise.std() and np.abs(np.corrcoef(smooth_gaussian(noise, 1.0).T)[0, 1]) < 0.2
    assert smooth_gaussian(noise[:1], 1.0).shape == (1, 2)
