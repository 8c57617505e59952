"""The shape of the lips in four numbers, seen in the canonical crop: what speech moves."""

from __future__ import annotations

import numpy as np

from stages.faces.align import apply
from stages.shapes import LIP_INNER_BOTTOM, LIP_INNER_TOP, MOUTH, MOUTH_CORNERS, NOSE_BASE

LIPS = 4
"""Inner lips apart; corners apart; upper lip below the nose; lower lip below the nose. In crop half-sides."""
WEIGHTS = np.array([1.0, 0.5, 1.0, 1.0], np.float32)
"""How much each is seen."""
LIP_OUTER_BOTTOM = 57
CHIN = slice(6, 11)
MOUTH_POINTS = np.r_[MOUTH, CHIN]
"""The 25 points that speech moves."""
LEAST = 0.01
"""Deviation that a shape has at least, so that a mouth that never moved is not divided by nothing."""
LIVELY = 0.6
"""Share of everybody's liveliness that a person is taken to have at least: a film of somebody silent does not tell."""
OPENS = np.array([True, False, False, True])
"""Which of the numbers grow as the mouth opens."""


def lip_shape(align: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """From source -> template (T, 2, 3) and source landmarks (T, 68, 2): (T, 4) f32."""
    points = 2 * apply(align, landmarks)  # (T, 68, 2)
    return _measure(points[:, MOUTH_POINTS], points[:, NOSE_BASE].mean(1)).astype(np.float32)


def mouth_points(align: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Mouth and chin (T, 25, 2) f32 in -1..1 of the crop, from the same."""
    return (2 * apply(align, landmarks)[:, MOUTH_POINTS] - 1).astype(np.float32)


def habits(shapes: np.ndarray, everybody: np.ndarray | None = None) -> np.ndarray:
    """How a person's lips are, from shapes (T, 4): mean, deviation, and at rest, (3, 4) f32.

    With `everybody`'s habits, a person that is seen too shortly, or silent, is taken to be about as lively as others.
    """
    rest = shapes[np.argsort(shapes[:, 0], kind="stable")[: max(1, len(shapes) // 10)]].mean(0)
    mean, spread = shapes.mean(0), np.maximum(shapes.std(0), LEAST)
    if everybody is not None:
        spread = np.maximum(spread, LIVELY * everybody[1])
        opened = np.maximum(mean - rest, LIVELY * (everybody[0] - everybody[2]))
        mean = np.where(OPENS, rest + opened, mean)
    return np.stack([mean, spread, rest]).astype(np.float32)


def still_habits(shape: np.ndarray, everybody: np.ndarray) -> np.ndarray:
    """The same for a person of whom one picture is known, with lips (4,): a mouth that is open there would close like others'."""
    open_by = max(0.0, float(shape[0] - everybody[2, 0]))
    rest = np.where(OPENS, shape - open_by, shape)
    return np.stack([np.where(OPENS, rest + everybody[0] - everybody[2], shape), everybody[1], rest]).astype(np.float32)


def reshape(mouth: np.ndarray, nose: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Move mouth and chin (25, 2) so that the lips take `shape` (4,), the nose's base being at `nose` (2,): (25, 2).

    Lips move most in their middle and not at the corners, the inner edge of the lower lip with the opening, the chin with the lip.
    """
    gap, width, top, low = shape - _measure(mouth[None], nose[None])[0]
    lips = mouth[:20]
    corners = lips[[0, 6]]
    offset = (lips[:, 0] - corners[:, 0].mean()) / (np.ptp(corners[:, 0]) / 2 + 1e-9)  # -1 .. 1 from corner to corner
    middle = np.maximum(0, 1 - offset**2)
    moved = mouth.copy()
    moved[:20, 0] += offset * width / 2
    for points, by in ((UPPER, top), (LOWER_INNER, top + gap), (LOWER_OUTER, low)):
        moved[points, 1] += by * middle[points]
    moved[CORNERS, 1] += CORNERS_FOLLOW * (top + low) / 2
    moved[20:, 1] += CHIN_FOLLOWS * low
    return moved


UPPER, LOWER_OUTER, LOWER_INNER, CORNERS = [1, 2, 3, 4, 5, 13, 14, 15], [7, 8, 9, 10, 11], [17, 18, 19], [0, 6, 12, 16]
"""Of the 25 points: 0-19 iBUG's 48-67."""
CORNERS_FOLLOW, CHIN_FOLLOWS = 0.3, 0.8


def _measure(mouth: np.ndarray, nose: np.ndarray) -> np.ndarray:
    """Mouth and chin (T, 25, 2), nose base (T, 2): (T, 4)."""
    first = MOUTH.start
    top, bottom, left, right, low = (
        mouth[:, i - first] for i in (LIP_INNER_TOP, LIP_INNER_BOTTOM, *MOUTH_CORNERS, LIP_OUTER_BOTTOM)
    )
    apart = [np.linalg.norm(bottom - top, axis=-1), np.linalg.norm(right - left, axis=-1)]
    return np.stack([*apart, top[:, 1] - nose[:, 1], low[:, 1] - nose[:, 1]], axis=-1)
