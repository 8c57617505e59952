"""Which frames' mouths are shown, and how much of each."""

import numpy as np
import pytest

from stages.dubbing.mouths import mix


@pytest.mark.parametrize("around", [0, 1, 3])
def test_shares_are_one_together_and_a_frame_that_stays_is_alone(around):
    chosen = np.array([4] * 10 + [9] * 10)
    for output in range(20):
        shares = mix(chosen, output, around)
        assert sum(share for _, share in shares) == pytest.approx(1)
    assert mix(chosen, 0, around) == ((4, pytest.approx(1)),) and mix(chosen, 19, around) == ((9, pytest.approx(1)),)


def test_one_mouth_gives_way_to_the_other_within_a_frame_on_either_side():
    chosen = np.array([4] * 10 + [9] * 10)
    new = [dict(mix(chosen, output, 1)).get(9, 0.0) for output in range(7, 13)]
    assert new == pytest.approx([0, 0, 0.25, 0.75, 1, 1])
    assert mix(chosen, 9, 0) == ((4, 1.0),)  # at 10 frames a second there is no time for it


def test_a_mouth_that_comes_back_is_counted_once():
    assert dict(mix(np.array([4, 9, 4]), 1, 1)) == pytest.approx({4: 0.5, 9: 0.5})
