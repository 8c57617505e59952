"""How far down and aside a face reaches, so that collar, neck and hair beside a generated mouth stay the source's.

The jaw is seen from a point between nose and mouth: its distance in `ANGLES` directions, in unit lengths of the crop. Downwards,
where speech moves it, the farthest counts that it reaches in that pose, whatever was being said: where the paste ends does not
tell how far the mouth of its own frame was open. Aside, the frame's own jaw counts.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from stages.faces.align import apply
from stages.faces.lips import CHIN, CHIN_FOLLOWS
from stages.faces.mask import smoothstep
from stages.faces.pose import apart
from stages.faces.track import smooth_gaussian
from stages.shapes import JAW

CENTRE = np.array([0.5, 0.6])
"""In the unit crop; never outside a jaw."""
ANGLES = 72
DIRECTIONS = np.linspace(-np.pi, np.pi, ANGLES)
"""Angles from straight down, which is in the middle: from up, to the left, about to up again."""
MARGIN, SOFT = 0.008, 0.024
"""A jaw line is about so far within the face's edge; width of the soft edge beyond."""
LOOKS, ALIKE = 400, 16
"""Frames of a film that are looked at, and how many of them, the nearest in pose, speak for a frame."""
SPEAKS = np.deg2rad([50, 75])
"""Angles from straight down up to which speech moves the jaw, and from which on it does not."""
STEADY = 2.0
"""Frames: deviation of the Gaussian over time that keeps the edge from jumping."""
FOLLOWS = np.interp(np.arange(17), [CHIN.start - 3, CHIN.start, CHIN.stop - 1, CHIN.stop + 2], [0, 1, 1, 0]) * CHIN_FOLLOWS
"""How far each point of the jaw goes with the lower lip."""


def reaches(
    align: np.ndarray, landmarks: np.ndarray, points: np.ndarray, usable: np.ndarray, order: np.ndarray, lower: np.ndarray
) -> np.ndarray:
    """How far the face reaches in each of N output frames: (N, ANGLES) f32.

    Of T source frames: align (T, 2, 3), landmarks (T, 68, 2), condition points (T, 39, 2) and usable (T,) bool; order (N,) is the
    source frame that each output frame shows, lower (N,) f32 how much lower than there the lower lip is drawn, in crop half-sides.
    """
    frames = np.flatnonzero(usable)
    looks = frames[np.linspace(0, len(frames) - 1, min(LOOKS, len(frames))).round().astype(int)]
    jaw = apply(align, landmarks)[:, JAW]  # (T, 17, 2)
    seen = _distances(jaw[looks])  # (K, A)
    alike = min(ALIKE, len(looks))
    speaks = 1 - smoothstep((np.abs(DIRECTIONS) - SPEAKS[0]) / (SPEAKS[1] - SPEAKS[0]))
    usual = np.zeros((len(align), ANGLES), np.float32)
    for part in np.array_split(frames, len(frames) // 256 + 1):
        near = np.argpartition(apart(points[part, None], points[looks][None]), alike - 1, axis=1)[:, :alike]
        own = _distances(jaw[part])
        usual[part] = own + speaks * np.maximum(seen[near].max(1) - own, 0)
    drawn = np.zeros((len(order), ANGLES), np.float32)
    known = np.flatnonzero(usable[order])
    moved = jaw[order[known]]
    moved[..., 1] += lower[known, None] / 2 * FOLLOWS  # half-sides to unit lengths
    drawn[known] = np.maximum(usual[order[known]], _distances(moved))
    # What is about to be reached counts already, so that smoothing takes nothing away.
    wide = cv2.dilate(drawn, np.ones((2 * round(2 * STEADY) + 1, 1), np.uint8))
    return smooth_gaussian(wide, STEADY)


def within(reach: np.ndarray, resolution: int) -> np.ndarray:
    """(R, R) f32: 1 in the face that reaches so far (ANGLES,), softly falling to 0 beyond."""
    angle, distance = _polar(resolution)
    limit = np.interp(angle, DIRECTIONS, reach)
    return smoothstep((limit + MARGIN + SOFT - distance) / SOFT)


@cache
def _polar(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel of the crop: the angle from straight down, and the distance, both (R, R) f64."""
    at = (np.arange(resolution) + 0.5) / resolution
    x, y = np.meshgrid(at - CENTRE[0], at - CENTRE[1])
    return np.arctan2(x, y), np.hypot(x, y)


def _distances(jaw: np.ndarray) -> np.ndarray:
    """Jaws (T, 17, 2) in the unit crop -> their distance in all directions (T, ANGLES) f32; above the ears the ears' own."""
    x, y = np.moveaxis(jaw - CENTRE, -1, 0)
    angle, distance = np.arctan2(x, y), np.hypot(x, y)
    turn = np.argsort(angle, axis=1)
    angle, distance = np.take_along_axis(angle, turn, 1), np.take_along_axis(distance, turn, 1)
    return np.stack([np.interp(DIRECTIONS, a, d) for a, d in zip(angle, distance, strict=True)]).astype(np.float32)
