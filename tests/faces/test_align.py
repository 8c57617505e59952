"""The canonical crop and its way back."""

import numpy as np
import pytest

from stages.faces.align import TEMPLATE, apply, crop, invert, paste, shade, similarity
from stages.faces.mask import feathered, mask, pasted, window


def picture(height=240, width=320):
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return np.stack([127 + 100 * np.sin(x / 25), 127 + 100 * np.cos(y / 20), 127 + 60 * np.sin((x + y) / 40)], -1).astype(np.uint8)


def turned(angle=0.2, scale=150.0, shift=(80.0, 40.0)):
    """Unit template -> source pixels."""
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    return TEMPLATE @ np.array([[c, -s], [s, c]]).T + shift


def test_similarity_recovers_a_turned_and_scaled_face():
    points = turned()
    assert np.allclose(apply(similarity(points), points), TEMPLATE, atol=1e-5)


def test_similarity_of_many_frames_is_that_of_each():
    many = np.stack([turned(a) for a in (0.0, 0.3, -0.4)])
    assert np.allclose(similarity(many), [similarity(p) for p in many])


def test_similarity_never_mirrors():
    matrix = similarity(turned()[[1, 0, 2]])
    assert np.linalg.det(matrix[:, :2]) > 0


def test_mouth_and_chin_do_not_move_the_crop():
    from stages.faces.align import anchors

    landmarks = np.random.default_rng(0).uniform(0, 200, (68, 2))
    opened = landmarks.copy()
    opened[48:68] += 30
    opened[0:17] += 20
    assert np.array_equal(anchors(landmarks), anchors(opened))


@pytest.mark.parametrize("scale", [40.0, 128.0, 230.0])
def test_pasting_an_unchanged_crop_changes_nothing_visible(scale):
    frame = picture()
    matrix = similarity(turned(0.1, scale, (90.0, 60.0)))
    resolution = 256
    out = paste(frame, crop(frame, matrix, resolution), matrix, feathered(resolution))
    assert np.abs(out.astype(int) - frame).max() <= 6
    assert np.abs(out.astype(int) - frame).mean() < 0.5


@pytest.mark.parametrize("scale, shift", [(60.0, (60.0, 30.0)), (180.0, (60.0, 30.0)), (400.0, (0.0, -240.0))])
def test_nothing_outside_the_mask_is_touched(scale, shift):
    frame = picture()
    matrix = similarity(turned(0.3, scale, shift))
    red = np.full((256, 256, 3), (255, 0, 0), np.uint8)
    changed = (paste(frame, red, matrix, feathered(256)) != frame).any(-1)
    ys, xs = np.nonzero(changed)
    assert len(ys)
    inside = apply(matrix, np.stack([xs, ys], -1).astype(float))  # unit crop
    cell = np.clip((inside * 256).astype(int), 0, 255)
    # a pixel may reach one crop pixel over the edge, by interpolation
    near = [mask(256)[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].max() for x, y in cell]
    assert min(near) == 1


def test_a_face_beyond_the_picture_is_left_alone():
    frame = picture()
    matrix = similarity(turned(0, 100, (5000.0, 5000.0)))
    assert np.array_equal(paste(frame, np.zeros((64, 64, 3), np.uint8), matrix, feathered(64)), frame)


def test_light_is_added_where_it_is_and_nowhere_else():
    frame = picture()
    matrix = similarity(turned(0.2, 150.0))
    light = 6 * feathered(256)
    lit = frame.copy()
    shade(lit, light, matrix)
    black = np.zeros((256, 256, 3), np.uint8)
    reached = paste(np.full_like(frame, 255), black, matrix, feathered(256)) < 255
    change = lit.astype(int) - frame
    assert (change[~reached] == 0).all() and change.max() == 6 and change.min() == 0
    away = frame.copy()
    shade(away, light, similarity(turned(0, 100, (5000.0, 5000.0))))
    assert np.array_equal(away, frame)


def test_invert_undoes():
    matrix = similarity(turned())
    points = np.random.default_rng(1).uniform(0, 300, (10, 2))
    assert np.allclose(apply(invert(matrix), apply(matrix, points)), points, atol=1e-2)


@pytest.mark.parametrize("kind", ["lower-face", "mouth", "paper"])
def test_mask_is_one_shape_at_every_resolution(kind):
    small, large = mask(64, kind), mask(512, kind)
    assert set(np.unique(large)) <= {0.0, 1.0}
    assert abs(small.mean() - large.mean()) < 0.02
    soft = feathered(256, kind)
    assert ((soft > 0) <= (mask(256, kind) > 0)).all() and soft.max() == 1
    assert (pasted(256, kind) <= soft + 1e-6).all() and pasted(256, kind).max() == 1
    assert set(np.unique(pasted(256, kind, 0))) <= {0.0, 1.0}


@pytest.mark.parametrize("kind", ["lower-face", "mouth", "paper"])
def test_the_denoised_window_holds_the_mask(kind):
    rows, columns = window(kind, 32)
    left = mask(256, kind).reshape(32, 8, 32, 8).max((1, 3))
    left[rows, columns] = 0
    assert left.sum() == 0
    assert window("lower-face", 32) == (slice(16, 32), slice(4, 28))
