"""Looks: pictures and points move together, and a look is always the same."""

import numpy as np
import pytest

from stages.shapes import CONDITION_POINTS
from stages.training.augment import MIRRORED, MIRRORED_CONDITION, look


def test_the_first_look_is_the_clip_itself_and_others_are_always_the_same():
    assert look("a", 0) is None
    one, again, other = look("a", 1), look("a", 1), look("b", 1)
    assert np.array_equal(one.turn, again.turn) and np.array_equal(one.colours, again.colours)
    assert not np.array_equal(one.turn, other.turn)
    assert look("a", 1).flip and not look("a", 2).flip


def test_mirroring_twice_is_nothing_and_keeps_the_conditioning_points():
    assert (MIRRORED[MIRRORED] == np.arange(68)).all()
    assert (MIRRORED_CONDITION[MIRRORED_CONDITION] == np.arange(39)).all()
    assert MIRRORED[36] == 45 and MIRRORED[0] == 16 and MIRRORED[30] == 30
    assert CONDITION_POINTS[MIRRORED_CONDITION[0]] == 16


@pytest.mark.parametrize("number", [1, 2, 3])
def test_points_stay_on_what_they_mark(number):
    side, rng = 128, np.random.default_rng(number)
    points = rng.uniform(-0.6, 0.6, (1, 39, 2)).astype(np.float32)
    chosen = look("clip", number)
    moved = chosen.points(points)
    for i in (0, 11, 38):
        x, y = np.round((points[0, i] + 1) * side / 2 - 0.5).astype(int)
        crops = np.zeros((1, side, side, 3), np.uint8)
        crops[0, y - 1 : y + 2, x - 1 : x + 2] = 255
        bright = chosen.crops(crops)[0].astype(float).sum(-1)
        bright[bright < bright.max() / 2] = 0
        ys, xs = np.mgrid[:side, :side]
        found = np.array([(bright * xs).sum(), (bright * ys).sum()]) / bright.sum()
        j = int(MIRRORED_CONDITION[i]) if chosen.flip else i
        assert np.abs((moved[0, j] + 1) * side / 2 - 0.5 - found).max() < 1.5
