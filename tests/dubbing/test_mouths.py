"""Which frames' mouths are shown, and how much of each."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from stages.dubbing.job import Clock
from stages.dubbing.mouths import Mouths, mix
from tests.faces.test_lips import face

ONE_SHOT = np.zeros(20, np.int32)


@pytest.mark.parametrize("around", [0, 1, 3])
def test_shares_are_one_together_and_a_frame_that_stays_is_alone(around):
    chosen = np.array([4] * 10 + [9] * 10)
    for output in range(20):
        shares = mix(chosen, ONE_SHOT, output, around)
        assert sum(share for _, share in shares) == pytest.approx(1)
    assert mix(chosen, ONE_SHOT, 0, around) == ((4, pytest.approx(1)),) and mix(chosen, ONE_SHOT, 19, around) == ((9, pytest.approx(1)),)


def test_one_mouth_gives_way_to_the_other_within_a_frame_on_either_side():
    chosen = np.array([4] * 10 + [9] * 10)
    new = [dict(mix(chosen, ONE_SHOT, output, 1)).get(9, 0.0) for output in range(7, 13)]
    assert new == pytest.approx([0, 0, 0.25, 0.75, 1, 1])
    assert mix(chosen, ONE_SHOT, 9, 0) == ((4, 1.0),)  # at 10 frames a second there is no time for it


def test_nothing_is_mixed_across_a_cut():
    chosen = np.array([4] * 10 + [9] * 10)
    shot = (np.arange(20) >= 10).astype(np.int32)
    assert [len(mix(chosen, shot, output, 2)) for output in range(20)] == [1] * 20


def test_a_mouth_that_comes_back_is_counted_once():
    assert dict(mix(np.array([4, 9, 4]), ONE_SHOT, 1, 1)) == pytest.approx({4: 0.5, 9: 0.5})


@pytest.mark.parametrize("told", [True, False])
def test_one_reference_for_all_still_speaks_where_lips_are_told(told):
    frames = [np.full((64, 64, 3), 100, np.uint8)] * 5
    track = SimpleNamespace(align=np.repeat(np.eye(2, 3, dtype=np.float32)[None], 5, 0), landmarks=np.repeat(face(), 5, 0), shot=ONE_SHOT)
    feed = SimpleNamespace(fps=Fraction(25), once=lambda: iter(frames))
    reference = SimpleNamespace(track=track, feed=feed, usable=np.ones(5, bool), count=5)
    plan = SimpleNamespace(order=np.arange(5), presence=np.ones(5, np.float32))
    lips = SimpleNamespace(shapes=np.zeros((5, 4), np.float32)) if told else None
    mouths = Mouths("fixed", SimpleNamespace(resolution=64), reference, plan, lips, Clock())
    assert len(set(mouths.chosen)) == 1
    assert len({mouths._key(output) for output in range(5)}) == (5 if told else 1)
