"""The mouth's square and the lips' opening, under moves that must not matter."""

from __future__ import annotations

import numpy as np
import pytest

from stages.metrics.mouth import (
    MAX_LAG,
    SIDE,
    correlation,
    eye_distance,
    lag,
    landmark_distance,
    lip_opening,
    mouth_ratio,
    mouth_square,
)
from stages.shapes import EYE_LEFT, EYE_RIGHT, LIP_INNER_BOTTOM, LIP_INNER_TOP, MOUTH


def face(opening: float = 0.1) -> np.ndarray:
    """(68, 2) landmarks with eyes 1 apart at y 0, the mouth around (0, 1) and its inner lips `opening` apart."""
    points = np.zeros((68, 2))
    circle = np.exp(2j * np.pi * np.arange(6) / 6) * 0.1
    points[EYE_RIGHT] = np.stack([circle.real - 0.5, circle.imag], 1)
    points[EYE_LEFT] = np.stack([circle.real + 0.5, circle.imag], 1)
    around = np.exp(2j * np.pi * np.arange(20) / 20) * 0.3
    points[MOUTH] = np.stack([around.real, 1 + around.imag], 1)
    points[LIP_INNER_TOP], points[LIP_INNER_BOTTOM] = (0, 1 - opening / 2), (0, 1 + opening / 2)
    return points


def moved(points: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    turn = np.exp(1j * np.radians(degrees)) * scale
    z = (points[..., 0] + 1j * points[..., 1]) * turn + complex(*shift)
    return np.stack([z.real, z.imag], axis=-1)


@pytest.mark.parametrize("degrees", [0, 25, -80])
def test_the_square_follows_place_size_and_turn_of_the_face(degrees: float) -> None:
    still, turned = face(), moved(face(), degrees, 90, (320, 200))
    a, b = mouth_square(still), mouth_square(turned)
    into = [m[:, :2] @ p.T + m[:, 2:] for m, p in ((a, still), (b, turned))]
    np.testing.assert_allclose(into[0], into[1], atol=1e-5)  # every landmark lands on the same place of the crop
    np.testing.assert_allclose(into[1][:, MOUTH].mean(axis=1), 0.5, atol=1e-5)


def test_the_square_is_so_many_eye_distances_wide_upright_and_not_mirrored() -> None:
    matrix = mouth_square(face())
    np.testing.assert_allclose(matrix[:, :2], np.eye(2) / SIDE, atol=1e-6)
    many = mouth_square(np.stack([face(), moved(face(), 30, 4, (1, 2))]))
    assert many.shape == (2, 2, 3) and many.dtype == np.float32
    assert np.linalg.det(many[1][:, :2]) == pytest.approx(1 / (SIDE * 4) ** 2, rel=1e-5)


def test_lip_opening_is_in_eye_distances_whatever_the_pose() -> None:
    assert eye_distance(moved(face(), 40, 70, (9, 9))) == pytest.approx(70)
    openings = np.array([0.0, 0.1, 0.35])
    series = np.stack([moved(face(o), 10 * i, 50 + i, (i, 2 * i)) for i, o in enumerate(openings)])
    np.testing.assert_allclose(lip_opening(series), openings, atol=1e-9)


def test_lost_frames_have_no_opening_and_are_left_out_of_the_correlation() -> None:
    opening = np.sin(np.arange(50) / 3)
    other = 2 * opening + 5
    other[10:20] = np.nan
    lost = np.full((68, 2), np.nan)
    assert np.isnan(lip_opening(lost))
    assert correlation(opening, other) == pytest.approx(1.0)
    assert correlation(opening, -other) == pytest.approx(-1.0)
    assert abs(correlation(opening, np.random.default_rng(0).normal(size=50))) < 0.4


def test_a_mouth_that_never_moves_has_no_correlation() -> None:
    opening = np.sin(np.arange(50) / 3)
    assert np.isnan(correlation(opening, np.full(50, 0.1)))
    assert np.isnan(correlation(opening[:2], opening[:2]))


def test_landmark_distance_is_in_the_true_faces_eye_distances() -> None:
    truth = moved(face(), 15, 80, (200, 100))
    other = truth.copy()
    other[MOUTH] += (12, -16)  # 20 pixels
    assert landmark_distance(other, truth) == pytest.approx(20 / 80)
    assert landmark_distance(truth, truth) == 0
    other[:48] += 99  # nothing but the mouth counts
    assert landmark_distance(other, truth) == pytest.approx(20 / 80)


def test_an_open_mouth_is_told_by_its_shape_whatever_its_size() -> None:
    shut, wide = face(0.02), face(0.4)
    assert mouth_ratio(shut) < 0.1 < 0.25 < mouth_ratio(wide)
    assert mouth_ratio(moved(wide, 30, 55, (3, 4))) == pytest.approx(mouth_ratio(wide))


@pytest.mark.parametrize("late", [-MAX_LAG, -3, 0, 1, 5, MAX_LAG])
def test_the_lag_is_positive_where_the_generated_mouth_comes_late(late: int) -> None:
    series = np.convolve(np.random.default_rng(1).normal(size=150), np.ones(4), "same")
    true, generated = series[20:130], series[20 - late : 130 - late].copy()
    generated[50:55] = np.nan
    assert lag(3 * generated + 1, true) == late


def test_a_still_mouth_has_no_lag_and_a_short_one_is_not_shifted_off() -> None:
    series = np.random.default_rng(0).normal(size=20)
    assert np.isnan(lag(np.zeros(20), series))
    assert abs(lag(series[:8], series[:8])) == 0
