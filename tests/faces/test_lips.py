"""The lips' four numbers."""

import numpy as np

from stages.faces.lips import LEAST, LIPS, habits, lip_shape


def face(gap=0.04, width=0.25):
    points = np.zeros((1, 68, 2), np.float32)
    points[0, 31:36] = (0.5, 0.5)
    points[0, 62], points[0, 66] = (0.5, 0.66), (0.5, 0.66 + gap)
    points[0, 57] = (0.5, 0.72 + gap)
    points[0, 48], points[0, 54] = (0.5 - width / 2, 0.68), (0.5 + width / 2, 0.68)
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


def test_habits_are_mean_and_a_deviation_that_is_never_nothing():
    shapes = np.concatenate([lip_shape(np.eye(2, 3)[None], face(gap)) for gap in (0.0, 0.04, 0.08)])
    usual = habits(shapes)
    assert usual.shape == (2, LIPS) and np.isclose(usual[0, 0], 0.08) and usual[1, 1] == np.float32(LEAST)
