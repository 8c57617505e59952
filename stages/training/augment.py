"""Other looks of the same clip, so that few people stand for many: mirrored, in other colours, cut a little differently.

A look is one for a whole clip: target, reference and landmarks of a sample share it. Look 0 is the clip itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from stages.shapes import CONDITION_POINTS
from stages.training.order import generator

COLOUR, EXPOSURE = 0.1, 0.06
"""Deviations of the channels' mix and of their offset (1 is the whole range)."""
SCALE, TURN, SHIFT = 0.03, 0.03, 0.01
"""Deviations of size, of angle (radians) and of place (crop sides): about what the alignment leaves between people."""
LOOKS = 0x100C


def _mirrored() -> np.ndarray:
    """For each of iBUG's 68 points, the one on the other side."""
    pairs = [(i, 16 - i) for i in range(8)] + [(17 + i, 26 - i) for i in range(5)] + [(31, 35), (32, 34)]
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs += [(48, 54), (49, 53), (50, 52), (55, 59), (56, 58), (60, 64), (61, 63), (65, 67)]
    other = np.arange(68)
    for a, b in pairs:
        other[a], other[b] = b, a
    return other


MIRRORED = _mirrored()
PLACE = {int(p): i for i, p in enumerate(CONDITION_POINTS)}
MIRRORED_CONDITION = np.array([PLACE[int(MIRRORED[p])] for p in CONDITION_POINTS])
"""For each of the 39 conditioning points, the one on the other side."""


@dataclass(frozen=True)
class Look:
    """How a clip looks."""

    flip: bool
    colours: np.ndarray
    """(3, 4): new RGB in 0..1 = the mix of the old, and an offset."""
    turn: np.ndarray
    """(2, 3): similarity of the crop around its centre, in -1..1."""

    def crops(self, crops: np.ndarray) -> np.ndarray:
        """(B, R, R, 3) u8 -> the same."""
        side = crops.shape[1]
        half, centre = side / 2, (side - 1) / 2
        matrix = np.array(self.turn, np.float64)
        matrix[:, 2] = matrix[:, 2] * half + centre - matrix[:, :2] @ (centre, centre)
        shown = []
        for crop in crops:
            x = cv2.warpAffine(np.asarray(crop), matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            shown.append(x[:, ::-1] if self.flip else x)
        mixed = np.stack(shown).astype(np.float32) @ self.colours[:, :3].T + 255 * self.colours[:, 3]
        return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Conditioning points (T, 39, 2) in -1..1 -> the same."""
        moved = points @ self.turn[:, :2].T + self.turn[:, 2]
        return ((moved * (-1, 1))[:, MIRRORED_CONDITION] if self.flip else moved).astype(np.float32)


def look(clip: str, number: int) -> Look | None:
    """The `number`-th look of a clip, always the same; None for the clip itself. Every other one is mirrored."""
    if number == 0:
        return None
    rng = generator(LOOKS, number, *(ord(c) for c in clip))
    mix = np.eye(3) + rng.normal(0, COLOUR, (3, 3))
    scale, angle = 1 + rng.normal(0, SCALE), rng.normal(0, TURN)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.normal(0, 2 * SHIFT, (2, 1))
    colours = np.concatenate([mix, rng.normal(0, EXPOSURE, (3, 1))], axis=1)
    return Look(flip=number % 2 == 1, colours=colours.astype(np.float32), turn=np.concatenate([turn, shift], axis=1))
