"""What changes from frame to frame: the heatmaps of the paper's Fig. 5, a score of them, and flicker around the mouth.

All of it on canonical face crops, which hold the head still, so that what is left is the mouth, and jitter.
"""

from __future__ import annotations

import cv2
import numpy as np

from stages.faces.mask import mask

EDGE = 0.02
"""Crop sides around the mask that belong to neither side: the encoder smears the seam."""


class Motion:
    """Feed pairs of crops in order with `add`. Memory holds two crops and three maps."""

    def __init__(self, resolution: int):
        inside = mask(resolution).astype(np.uint8)  # (R, R)
        reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, [2 * max(1, round(EDGE * resolution)) + 1] * 2)
        self.inside, self.outside = inside > 0, cv2.dilate(inside, reach) == 0
        self.count = 0
        self._sums = np.zeros((2, resolution, resolution), np.float64)
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, generated: np.ndarray, truth: np.ndarray, joined: bool = True) -> dict[str, float]:
        """One pair (R, R, 3) u8; not `joined` to the one before (a cut, lost frames): nothing is compared with it.

        Returns heat (generated) and heat_true, the mean absolute difference to the frame before inside the mask, and flicker,
        the mean absolute difference of those two changes outside it; in grey levels. Empty for the first of a run.
        """
        a, b = generated.astype(np.int16), truth.astype(np.int16)
        last, self._last = self._last, (a, b)
        if last is None or not joined:
            return {}
        change, change_true = a - last[0], b - last[1]
        heat, heat_true = (np.abs(c).mean(-1) for c in (change, change_true))  # (R, R)
        self._sums[0] += heat
        self._sums[1] += heat_true
        self.count += 1
        flicker = np.abs(change - change_true)[self.outside].mean()
        return {"heat": float(heat[self.inside].mean()), "heat_true": float(heat_true[self.inside].mean()), "flicker": float(flicker)}

    def maps(self) -> np.ndarray:
        """Mean difference of adjacent frames, generated and true: (2, R, R) f32, in grey levels."""
        return (self._sums / max(1, self.count)).astype(np.float32)


def jitter(heat: np.ndarray, heat_true: np.ndarray) -> float:
    """Change inside the mask from frame to frame in units of the truth's: 1 as the truth, 0 frozen; NaN for a still truth."""
    known = np.isfinite(heat) & np.isfinite(heat_true)
    whole = float(heat_true[known].sum())
    return float(heat[known].sum()) / whole if whole > 0 else float("nan")
