"""The shape of the lips in four numbers, seen in the canonical crop: what speech moves."""

from __future__ import annotations

import numpy as np

from stages.faces.align import apply
from stages.shapes import LIP_INNER_BOTTOM, LIP_INNER_TOP, MOUTH_CORNERS, NOSE_BASE

LIPS = 4
"""Inner lips apart; corners apart; upper lip below the nose; lower lip below the nose. In crop half-sides."""
LIP_OUTER_BOTTOM = 57
LEAST = 0.01
"""Deviation that a shape has at least, so that a mouth that never moved is not divided by nothing."""


def lip_shape(align: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """From source -> template (T, 2, 3) and source landmarks (T, 68, 2): (T, 4) f32."""
    points = 2 * apply(align, landmarks)  # (T, 68, 2)
    nose = points[:, NOSE_BASE].mean(1)
    top, bottom = points[:, LIP_INNER_TOP], points[:, LIP_INNER_BOTTOM]
    corners = points[:, list(MOUTH_CORNERS)]
    shape = [
        np.linalg.norm(bottom - top, axis=-1),
        np.linalg.norm(corners[:, 1] - corners[:, 0], axis=-1),
        top[:, 1] - nose[:, 1],
        points[:, LIP_OUTER_BOTTOM, 1] - nose[:, 1],
    ]
    return np.stack(shape, axis=-1).astype(np.float32)


def habits(shapes: np.ndarray) -> np.ndarray:
    """A person's usual lips and how far they go, from (T, 4): mean and deviation, (2, 4) f32."""
    return np.stack([shapes.mean(0), np.maximum(shapes.std(0), LEAST)]).astype(np.float32)
