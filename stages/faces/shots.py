"""Shot cuts: where the picture changes as a whole from one frame to the next."""

from __future__ import annotations

import cv2
import numpy as np

CUT_DIFFERENCE = 18.0
"""Mean absolute change of a 32x18 thumbnail, in grey levels, that a cut must exceed ..."""
CUT_RATIO = 3.0
"""... and by how much it must exceed the mean change of the second before, so that fast pans are no cuts."""


class ShotDetector:
    """Feed frames in order; `is_cut` says whether this one starts a new shot, for which it must change by `difference`."""

    def __init__(self, difference: float = CUT_DIFFERENCE) -> None:
        self.difference = difference
        self._last: np.ndarray | None = None
        self._motion = 0.0

    def is_cut(self, frame: np.ndarray) -> bool:
        """frame: (H, W, 3) u8."""
        thumb = cv2.resize(frame, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32)
        last, self._last = self._last, thumb
        if last is None:
            return False
        # The mean colour is taken out: a flash or a camera's exposure step is no cut.
        change = float(np.abs((thumb - thumb.mean((0, 1))) - (last - last.mean((0, 1)))).mean())
        cut = change > self.difference and change > CUT_RATIO * self._motion
        self._motion = 0.0 if cut else 0.9 * self._motion + 0.1 * change
        return cut
