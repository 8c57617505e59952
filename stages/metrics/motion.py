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
        self._inside, self._outside = inside, 1 - cv2.dilate(inside, reach)  # as OpenCV wants its masks
        self.inside, self.outside = self._inside > 0, self._outside > 0
        self.count = 0
        self._sums = np.zeros((2, resolution, resolution), np.float64)
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, generated: np.ndarray, truth: np.ndarray, joined: bool = True) -> dict[str, float]:
        """One pair (R, R, 3) u8; not `joined` to the one before (a cut, lost frames): nothing is compared with it.

        Returns heat (generated) and heat_true, the mean absolute difference to the frame before inside the mask, and flicker,
        the mean absolute difference of those two changes outside it; in grey levels. Empty for the first of a run.
        """
        last, self._last = self._last, (generated, truth)
        if last is None or not joined:
            return {}
        heat_true = _change(truth, last[1])
        own = generated is not truth or last[0] is not last[1]  # else this is the truth itself: nothing twice
        heat = _change(generated, last[0]) if own else heat_true
        self._sums[0] += heat
        self._sums[1] += heat_true
        self.count += 1
        flicker = 0.0
        if own:
            changes = (cv2.subtract(x, before, dtype=cv2.CV_16S) for x, before in zip((generated, truth), last, strict=True))
            flicker = sum(cv2.mean(cv2.absdiff(*changes), self._outside)[:3]) / 3
        return {"heat": cv2.mean(heat, self._inside)[0], "heat_true": cv2.mean(heat_true, self._inside)[0], "flicker": flicker}

    def maps(self) -> np.ndarray:
        """Mean difference of adjacent frames, generated and true: (2, R, R) f32, in grey levels."""
        return (self._sums / max(1, self.count)).astype(np.float32)


def _change(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Absolute difference of two crops, mean over channels: (R, R) f32."""
    return cv2.transform(cv2.absdiff(now, before).astype(np.float32), np.full((1, 3), 1 / 3, np.float32))


def jitter(heat: np.ndarray, heat_true: np.ndarray) -> float:
    """Change inside the mask from frame to frame in units of the truth's: 1 as the truth, 0 frozen; NaN for a still truth."""
    known = np.isfinite(heat) & np.isfinite(heat_true)
    whole = float(heat_true[known].sum())
    return float(heat[known].sum()) / whole if whole > 0 else float("nan")
