"""What is painted between lips that the reference does not show open."""

import numpy as np
import pytest

from stages.errors import WeightsError
from stages.faces import inside, lip_shape, mouth_points
from tests.faces.test_lips import face

UNIT = np.eye(2, 3, dtype=np.float32)[None]
SIDE = 256


def mouth(gap, width=0.25):
    """Mouth and chin (25, 2) and lips (4,)."""
    return mouth_points(UNIT, face(gap, width))[0], lip_shape(UNIT, face(gap, width))[0]


def grey(level=150):
    return np.full((SIDE, SIDE, 3), level, np.uint8)


def test_only_lips_that_open_much_wider_than_the_reference_shows_are_painted():
    rest, usual, open_ = (mouth(gap)[1] for gap in (0.005, 0.03, 0.06))
    assert inside.share(rest, rest) == inside.share(usual, open_) == inside.share(open_, rest) == 0
    assert inside.share(rest, open_) == 1
    rising = [inside.share(rest, mouth(gap)[1]) for gap in np.linspace(0.005, 0.06, 40)]
    assert (np.diff(rising) >= 0).all() and np.diff(rising).max() < 0.2  # it fades in


def test_the_painting_lies_between_the_inner_lips_and_nowhere_else():
    points, shape = mouth(0.06)
    dark = np.zeros((5, inside.HEIGHT, inside.WIDTH, 3), np.float32)
    dark[0] = np.log(0.25)
    shown, alpha = inside.paint(grey(), points, shape, np.full(3, 150, np.float32), 1.0, dark)
    ys, xs = np.nonzero(alpha > 0.5)
    top, bottom, left, right = 0.66 * SIDE, 0.72 * SIDE, (0.5 - 0.125) * SIDE, (0.5 + 0.125) * SIDE
    assert abs(ys.min() - top) < 3 and abs(ys.max() - bottom) < 3 and left - 2 < xs.min() and xs.max() < right + 2
    assert len(ys) > 0.6 * (bottom - top) * (right - left)
    assert (shown[alpha < 1e-3] == 150).all() and np.abs(shown[alpha > 0.99].astype(int) - 37).max() <= 2
    half, _ = inside.paint(grey(), points, shape, np.full(3, 150, np.float32), 0.5, dark)
    assert abs(int(half[int(0.69 * SIDE), SIDE // 2, 0]) - 94) <= 2


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_what_is_looked_at_is_painted_back_where_it_was_however_the_mouth_is_turned(turn):
    points, shape = mouth(0.08)
    c, s = np.cos(turn), np.sin(turn)
    points = (points - (0, 0.35)) @ np.array([[c, s], [-s, c]]) + (0, 0.35)
    at = (np.arange(SIDE) + 0.5) / SIDE
    x, y = np.meshgrid(at, at)
    picture = np.stack([60 + 120 * x, 60 + 120 * y, np.full_like(x, 90)], -1).astype(np.uint8)
    skin = np.full(3, 150, np.float32)
    seen = inside.look_inside(picture, points)
    weights = np.zeros((5, *seen.shape), np.float32)
    weights[0] = np.log(seen / skin)
    shown, alpha = inside.paint(grey(), points, shape, skin, 1.0, weights)
    assert np.abs(shown.astype(int) - picture)[alpha > 0.95].max() <= 4


def test_least_squares_find_what_the_inside_depends_on():
    rng = np.random.default_rng(0)
    shapes = np.c_[rng.uniform(0.07, 0.3, 300), rng.uniform(0.4, 0.6, 300), np.zeros((300, 2))]
    skins = rng.uniform(80, 220, (300, 3))
    insides = np.repeat(np.repeat((skins * (0.9 - 2 * shapes[:, :1]))[:, None, None], 16, 1), 32, 2).round().astype(np.uint8)
    weights = inside.fit(insides, skins, shapes, np.full(300, 0.1))
    assert np.abs(inside.seen(shapes, skins, weights) - insides).mean() < 6


def test_the_weights_that_ship_are_a_mouth():
    weights = inside.load_inside()
    narrow, wide = (inside.seen(np.array([gap, 0.5, 0, 0]), np.array([200.0, 150, 130]), weights) for gap in (0.08, 0.25))
    for shown in (narrow, wide):
        assert shown.shape == (16, 32, 3) and 20 < shown.mean() < 110  # darker than skin
    assert wide[1:4, 10:22].mean() > 1.5 * wide[6:10, 10:22].mean()  # teeth above the dark
    with pytest.raises(WeightsError, match="mouth's inside"):
        inside.load_inside(inside.BUNDLED.parent / "absent.safetensors")
