"""The lips' four numbers."""

import numpy as np

from stages.faces.lips import LEAST, LIPS, MOUTH_POINTS, habits, lip_shape, mouth_points, reshape, still_habits


def face(gap=0.04, width=0.25):
    points = np.zeros((1, 68, 2), np.float32)
    points[0, 31:36] = (0.5, 0.5)
    points[0, 62], points[0, 66] = (0.5, 0.66), (0.5, 0.66 + gap)
    points[0, 57] = (0.5, 0.72 + gap)
    across = 0.5 + width / 2 * np.array([-1, -0.66, -0.33, 0, 0.33, 0.66, 1], np.float32)
    points[0, 48:55] = np.c_[across, np.full(7, 0.64)]
    points[0, 55:60] = np.c_[across[5:0:-1], np.full(5, 0.72 + gap)]
    points[0, 60:65] = np.c_[across[[0, 2, 3, 4, 6]], np.full(5, 0.66)]
    points[0, 65:68] = np.c_[across[[4, 3, 2]], np.full(3, 0.66 + gap)]
    points[0, [48, 54], 1] = 0.68
    points[0, 6:11] = np.c_[across[1:6], np.full(5, 0.85 + gap)]
    return points


def test_shape_is_counted_in_half_sides_of_the_crop_whatever_the_picture():
    unit = np.eye(2, 3, dtype=np.float32)[None]
    shape = lip_shape(unit, face())
    assert shape.shape == (1, LIPS) and np.allclose(shape, [[0.08, 0.5, 0.32, 0.52]], atol=1e-6)
    turned = np.array([[0, -2, 3], [2, 0, -1]], np.float64)  # the same face, larger and turned in its picture
    source = face()[0] @ turned[:, :2].T + turned[:, 2]
    back = np.linalg.inv(turned[:, :2])
    align = np.concatenate([back, (-back @ turned[:, 2])[:, None]], axis=1)[None]
    assert np.allclose(lip_shape(align, source[None]), shape, atol=1e-5)


def test_habits_are_mean_deviation_and_rest():
    shapes = np.concatenate([lip_shape(np.eye(2, 3)[None], face(gap)) for gap in (0.0, 0.04, 0.08)])
    usual = habits(shapes)
    assert usual.shape == (3, LIPS) and np.isclose(usual[0, 0], 0.08) and usual[1, 1] == np.float32(LEAST) and usual[2, 0] == 0


def test_somebody_silent_and_somebody_in_a_photo_are_taken_to_be_about_as_lively_as_others():
    everybody = np.array([[0.1, 0.5, 0.3, 0.5], [0.06, 0.03, 0.02, 0.05], [0.02, 0.48, 0.3, 0.42]], np.float32)
    silent = habits(np.repeat([[0.01, 0.6, 0.25, 0.4]], 50, 0), everybody)
    assert np.allclose(silent[1], 0.6 * everybody[1]) and np.allclose(silent[2], [0.01, 0.6, 0.25, 0.4])
    assert np.allclose(silent[0], [0.01 + 0.6 * 0.08, 0.6, 0.25, 0.4 + 0.6 * 0.08])
    shut, open_ = (still_habits(np.array([gap, 0.6, 0.25, 0.4 + gap], np.float32), everybody) for gap in (0.02, 0.22))
    assert np.allclose(shut, open_, atol=1e-6)  # the same person
    assert np.allclose(shut[2], [0.02, 0.6, 0.25, 0.42]) and np.allclose(shut[0], [0.1, 0.6, 0.25, 0.5])


def test_a_mouth_takes_the_shape_that_it_is_told():
    unit = np.eye(2, 3, dtype=np.float32)[None]
    mouth, nose = mouth_points(unit, face())[0], np.zeros(2)
    told = np.array([0.3, 0.4, 0.28, 0.9])
    moved = face()
    moved[0, MOUTH_POINTS] = (reshape(mouth, nose, told) + 1) / 2
    assert np.allclose(lip_shape(unit, moved)[0], told, atol=0.02)
    same = reshape(mouth, nose, lip_shape(unit, face())[0])
    assert np.allclose(same, mouth, atol=1e-6)
