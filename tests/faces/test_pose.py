"""References in a like pose, and turned to it."""

import cv2
import numpy as np

from stages.faces.pose import NOSE, apart, choose_references, turn_to
from tests.faces.test_lips import face

STILL = np.zeros((400, 4), np.float32)


def heads(count, seed=0):
    """Points of a head that turns slowly from side to side."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(-0.6, 0.6, (39, 2))
    yaw = 0.3 * np.sin(np.arange(count) / 40)
    return (base[None] + np.stack([yaw[:, None] * (1 - base[:, 1]), 0.1 * yaw[:, None] * base[:, 0]], -1)).astype(np.float32)


def test_references_are_alike_far_and_seldom_changed():
    points = heads(300)
    chosen = choose_references(points, np.ones(300, bool), 25, STILL[:300])
    assert (np.abs(chosen - np.arange(300)) >= 25).all()
    near = apart(points[chosen], points)
    anyone = apart(points[np.random.default_rng(0).integers(0, 300, 300)], points)
    assert near.mean() < 0.25 * anyone.mean() and (np.diff(chosen) != 0).sum() < 75


def test_frames_that_cannot_be_used_are_not_referred_to_and_one_frame_serves_itself():
    points, usable = heads(100), np.ones(100, bool)
    usable[20:60] = False
    points[~usable] = np.nan
    chosen = choose_references(points, usable, 10, STILL[:100])
    assert usable[chosen].all()
    assert choose_references(heads(1), np.ones(1, bool), 25, STILL[:1]).tolist() == [0]
    short = choose_references(heads(8), np.ones(8, bool), 25, STILL[:8])  # nothing is far away
    assert ((0 <= short) & (short < 8)).all()


def test_turning_brings_the_points_to_their_places_and_nothing_to_a_picture_that_is_there():
    side, points = 128, heads(40)
    own, wanted = points[0], points[18]
    picture = np.zeros((side, side, 3), np.uint8)
    chosen = [3, 20, 33]
    for i in chosen:
        x, y = ((own[i] + 1) * side / 2 - 0.5).round().astype(int)
        picture[y - 2 : y + 3, x - 2 : x + 3] = 255
    turned = turn_to(picture, own, wanted).astype(float).sum(-1)
    ys, xs = np.mgrid[:side, :side]
    for i in chosen:
        x, y = (wanted[i] + 1) * side / 2 - 0.5
        nearby = turned * (np.hypot(xs - x, ys - y) < 8)
        found = np.array([(nearby * xs).sum(), (nearby * ys).sum()]) / nearby.sum()
        assert np.abs(found - (x, y)).max() < 1.5
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    assert np.abs(turn_to(smooth, own, own).astype(int) - smooth).max() <= 1


def test_references_have_the_lips_that_are_wanted():
    points, opening = heads(300), 0.1 + 0.1 * np.sin(np.arange(300) / 3)
    shapes = np.stack([opening, np.full(300, 0.5), np.full(300, 0.3), 0.4 + opening], axis=1).astype(np.float32)
    wanted = shapes[np.arange(600) % 300][::-1]  # another order than the film's
    order = np.r_[0:300, 299:-1:-1]
    chosen = choose_references(points, np.ones(300, bool), 25, shapes, order, wanted)
    assert chosen.shape == (600,) and (np.abs(chosen - order) >= 25).all()
    assert np.corrcoef(shapes[chosen, 0], wanted[:, 0])[0, 1] > 0.9
    assert apart(points[chosen], points[order]).mean() < 0.1


def test_the_turned_picture_has_the_lips_that_are_wanted():
    """Marks on the inner lips come to lie as far apart as told; what lies beside the mouth stays."""
    side, points = 256, heads(1)[0] * (1, 0.5) - (0, 0.4)  # above the mouth
    points[NOSE] = (0.0, 0.0)
    mouth = 2 * face()[0][[*range(48, 68), *range(6, 11)]] - 1
    picture = np.zeros((side, side, 3), np.uint8)
    at = lambda p: ((p + 1) * side / 2 - 0.5).round().astype(int)  # noqa: E731
    for i in (14, 18):
        x, y = at(mouth[i])
        picture[y - 1 : y + 2, x - 3 : x + 4] = 255
    turned = turn_to(picture, points, points, mouth, np.array([0.28, 0.5, 0.32, 0.72], np.float32))
    rows = np.flatnonzero(turned[:, side // 2].sum(-1) > 200)
    assert abs((rows.max() - rows.min()) * 2 / side - 0.28) < 0.06  # it was 0.08
    assert np.array_equal(turned[:20], picture[:20])
