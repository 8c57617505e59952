"""The mark: strong in what is marked, absent elsewhere, steady over time, and within its mask."""

import numpy as np
import pytest

from stages.dubbing.watermark import STEPS, THRESHOLD, WAVES, Marker, measure, score
from stages.faces.mask import feathered


def faces(count=40, side=256, seed=0):
    """Smooth pictures that change a little from frame to frame."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 190, (8, 8, 3)).astype(np.float32)
    frames = []
    for _ in range(count):
        coarse += rng.normal(0, 1.0, coarse.shape).astype(np.float32)
        frames.append(np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8))
    return np.stack(frames)


@pytest.mark.parametrize("scale, most", [(0.5, 3.4), (1.3, 5.0), (2.0, 9.7)])
@pytest.mark.parametrize("kind, side", [("lower-face", 256), ("mouth", 256), ("paper", 256), ("lower-face", 512)])
def test_the_mark_is_strong_invisible_and_inside_its_mask(scale, most, kind, side):
    marker, frames = Marker(kind, side), faces(side=side)
    marked = np.stack([marker(f, scale) for f in frames])
    seen = "mouth" if kind == "mouth" else "lower-face"
    assert score(np.stack([measure(f, seen) for f in marked])) > 7
    assert abs(score(np.stack([measure(f, seen) for f in frames]))) < THRESHOLD
    change = marked.astype(int) - frames
    assert np.abs(change).max() <= 7 * most and np.sqrt(np.square(change[:, feathered(side, seen) > 0.5]).mean()) < most
    assert np.abs(change[:, feathered(side, seen) == 0]).max() == 0


def test_pictures_without_the_mark_score_like_chance():
    scores = [score(np.stack([measure(f, "lower-face") for f in faces(6, seed=s)])) for s in range(60)]
    assert max(scores) < THRESHOLD and abs(np.mean(scores)) < 1.2 and 0.4 < np.std(scores) < 1.5


def test_the_mark_does_not_flicker():
    marker, frames = Marker("lower-face", 256), faces(60)
    change = np.stack([marker(f, 1.0) for f in frames]).astype(float) - frames
    steps = np.abs(np.diff(change.mean(-1), axis=0))
    assert steps.mean() < 1.0 and len(WAVES) == 54 and STEPS == (3.0, 5.0, 9.0)


def test_a_face_about_a_border_of_size_keeps_its_lattice_and_one_that_grows_past_it_does_not():
    frames = faces(60)
    one, two = Marker("lower-face", 256), Marker("lower-face", 256)
    steady = np.stack([one(f, 0.79) for f in frames])
    wobbling = np.stack([two(f, s) for f, s in zip(frames, np.tile([0.79, 0.83], 30), strict=True)])
    np.testing.assert_array_equal(steady, wobbling)
    grown = Marker("lower-face", 256)
    levels = [grown._level(s) for s in (0.5, 0.85, 0.95, 0.75, 0.65, 2.0, 1.3, 1.2)]
    assert levels == [0, 0, 1, 1, 0, 2, 2, 1]
