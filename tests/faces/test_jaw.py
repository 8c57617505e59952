"""Where a face ends: as far as its jaw ever reaches in that pose, whoever's words it says."""

import numpy as np

from stages.faces import condition_points, pasted, reaches, within
from stages.faces.jaw import CENTRE
from tests.faces.test_lips import face

SIDE = 256
UNIT = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


def talking(opened):
    """A face whose chin is `opened` (T,) lower than at rest, in the unit crop: align, landmarks and condition points."""
    points = np.repeat(face(), len(opened), axis=0)
    angle = np.linspace(-0.55 * np.pi, 0.55 * np.pi, 17)
    points[:, :17] = CENTRE + np.stack([0.3 * np.sin(angle), 0.3 * np.cos(angle)], -1)
    points[:, 6:11, 1] += np.asarray(opened)[:, None]
    align = np.repeat(UNIT[None], len(opened), axis=0)
    return align, points.astype(np.float32), condition_points(align, points)


def lowest(reach):
    """The last row of the middle column that is pasted, in unit lengths."""
    column = within(reach, SIDE)[:, SIDE // 2]
    return (np.flatnonzero(column > 0.5)[-1] + 0.5) / SIDE


def found(opened, lower=None, order=None, usable=None):
    align, landmarks, points = talking(opened)
    order = np.arange(len(opened)) if order is None else order
    lower = np.zeros(len(order), np.float32) if lower is None else lower
    usable = np.ones(len(opened), bool) if usable is None else usable
    return reaches(align, landmarks, points, usable, order, lower)


def test_a_frame_does_not_tell_how_far_its_own_mouth_was_open():
    opened = np.where(np.arange(60) % 10 < 3, 0.06, 0.0)
    reach = found(opened)
    assert np.ptp(reach, axis=0).max() < 1e-6  # one pose, one reach: that of the widest open
    assert abs(lowest(reach[5]) - (CENTRE[1] + 0.36)) < 0.025


def test_a_chin_that_is_drawn_lower_than_any_that_was_seen_is_inside():
    still, lower = np.zeros(30), np.zeros(30, np.float32)
    lower[10:13] = 0.1
    plain, reach = found(still), found(still, lower)
    assert np.allclose(reach[25], plain[25]) and lowest(plain[11]) < 0.94
    assert lowest(reach[11]) - lowest(plain[11]) > 0.03
    steps = np.abs(np.diff(reach, axis=0)).max()
    assert steps < 0.02, steps  # and the edge moves there without a jump


def test_lost_frames_and_one_single_frame_are_no_trouble():
    align, landmarks, points = talking(np.zeros(20))
    usable = np.arange(20) % 7 != 3
    for array in (align, landmarks, points):
        array[~usable] = np.nan
    reach = reaches(align, landmarks, points, usable, np.arange(20), np.zeros(20, np.float32))
    assert np.isfinite(reach).all() and (reach[usable] > 0.2).all()
    one = found(np.zeros(1), order=np.zeros(5, np.int64))
    assert one.shape[0] == 5 and lowest(one[2]) > 0.85


def test_nothing_beyond_the_jaw_and_all_of_the_mouth_is_pasted():
    reach = found(np.zeros(30))[0]
    inside = within(reach, SIDE)
    at = (np.arange(SIDE) + 0.5) / SIDE
    distance = np.hypot(at[None] - CENTRE[0], at[:, None] - CENTRE[1])
    below = at[:, None] > CENTRE[1]
    assert (inside[(distance > 0.34) & below] == 0).all() and (inside[distance < 0.29] == 1).all()
    assert np.abs(np.diff(inside, axis=0)).max() < 0.4  # soft
    assert (within(found(np.zeros(30), order=np.arange(3))[0], 64) > 0).mean() - (inside > 0).mean() < 0.02
    assert (pasted(SIDE) > 0)[:, SIDE // 2].sum() > 0
