"""The mouth: where it is in a frame, how far it is open, and whether two mouths move together.

Landmarks are iBUG-68 points in pixels of the frame, (..., 68, 2).
"""

from __future__ import annotations

import numpy as np

from stages.shapes import EYE_LEFT, EYE_RIGHT, LIP_INNER_BOTTOM, LIP_INNER_CORNERS, LIP_INNER_TOP, MOUTH

SIDE = 1.25
"""Side of the mouth's square in eye distances: lips are about 0.8 wide, and about 0.9 high when wide open."""

MAX_LAG = 15
"""Frames by which a mouth may be early or late and still be told."""
OPEN_RATIO = 0.25
"""Height over width of the inner lips above which a mouth counts as open (KeySync's leak test)."""


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
    """Distance of the two eyes' centres in pixels: (...,)."""
    return np.linalg.norm(_across(landmarks), axis=-1)


def mouth_square(landmarks: np.ndarray) -> np.ndarray:
    """The map from source pixels to the unit square around the mouth: (..., 68, 2) -> (..., 2, 3) f32.

    The square is centred on the mean of the 20 mouth points, has a side of 1.25 eye distances, and is turned with the
    line through the eyes. Two videos are to be cut with the map of one of them (the truth's), so that both crops show the
    same pixels: a mouth at a wrong place must cost.
    """
    across = _across(landmarks) / (SIDE * eye_distance(landmarks)[..., None] ** 2)  # a unit vector over the side's length
    # Rotation by -angle and scale 1/side in one: |across / distance^2| is 1/distance.
    linear = np.stack([across, np.stack([-across[..., 1], across[..., 0]], -1)], -2)  # (..., 2, 2)
    centre = landmarks[..., MOUTH, :].mean(axis=-2)
    shift = 0.5 - (linear @ centre[..., None])[..., 0]
    return np.concatenate([linear, shift[..., None]], axis=-1).astype(np.float32)


def lip_opening(landmarks: np.ndarray) -> np.ndarray:
    """Gap between the inner lips at their middle, in eye distances: (...,); NaN where the landmarks are."""
    gap = landmarks[..., LIP_INNER_BOTTOM, :] - landmarks[..., LIP_INNER_TOP, :]
    return np.linalg.norm(gap, axis=-1) / eye_distance(landmarks)


def mouth_ratio(landmarks: np.ndarray) -> np.ndarray:
    """Height of the inner lips over their width: (...,)."""
    gap = landmarks[..., LIP_INNER_BOTTOM, :] - landmarks[..., LIP_INNER_TOP, :]
    width = landmarks[..., LIP_INNER_CORNERS[1], :] - landmarks[..., LIP_INNER_CORNERS[0], :]
    return np.linalg.norm(gap, axis=-1) / np.maximum(np.linalg.norm(width, axis=-1), 1e-9)


def landmark_distance(landmarks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean distance of the 20 mouth points to the true ones, in the true face's eye distances: (..., 68, 2) each -> (...,)."""
    apart = np.linalg.norm(landmarks[..., MOUTH, :] - truth[..., MOUTH, :], axis=-1)  # (..., 20)
    return apart.mean(-1) / eye_distance(truth)


def lag(a: np.ndarray, b: np.ndarray, most: int = MAX_LAG) -> float:
    """Frames by which series `a` (T,) comes after `b` (T,): the shift with the highest correlation, NaN where there is none.

    Shifts of up to `most` frames that leave at least half of the frames to compare; of equal ones the smallest.
    """
    found: dict[int, float] = {}
    for shift in sorted(range(-most, most + 1), key=abs):
        if 2 * abs(shift) > len(a):
            continue
        early, late = (b, a) if shift >= 0 else (a, b)
        count = len(a) - abs(shift)
        found[shift] = correlation(late[abs(shift) :], early[:count])
    known = {shift: r for shift, r in found.items() if np.isfinite(r)}
    return float(max(known, key=lambda shift: known[shift])) if known else float("nan")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two series (T,) over the frames where both are known.

    NaN where it is undefined: fewer than three such frames, or a series that does not move.
    """
    assert a.shape == b.shape and a.ndim == 1, (a.shape, b.shape)
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 3:
        return float("nan")
    x, y = (v[known].astype(np.float64) - v[known].astype(np.float64).mean() for v in (a, b))
    size = np.linalg.norm(x) * np.linalg.norm(y)
    # A constant series leaves only rounding errors of its mean, which would correlate with anything.
    still = max(np.ptp(x), np.ptp(y)) == 0 or min(np.ptp(x), np.ptp(y)) < 1e-9
    return float("nan") if still else float(np.clip(x @ y / size, -1, 1))


def _across(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[..., EYE_LEFT, :].mean(axis=-2) - landmarks[..., EYE_RIGHT, :].mean(axis=-2)
