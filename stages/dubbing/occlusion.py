"""Telling frames where something (a hand, a microphone) is in front of the lower face: reported, never guessed away."""

from __future__ import annotations

import cv2
import numpy as np

CELLS = 24
"""Side of the thumbnails that frames are compared by."""
CHANGED = 28.0
"""Grey levels beyond a cell's usual spread that are no longer the same skin in the same light."""
SHARE = 0.2
"""Share of the cheeks' and chin's cells that must have changed."""
MOUTH = (0.5, 0.68, 0.2, 0.14)
"""Ellipse of the crop that speech itself changes: centre x, y and half axes."""


class Occlusion:
    """Thumbnails of crops by output frame; at the end, those that differ from the person's usual look.

    What covers the face all the time cannot be told from the face this way.
    """

    def __init__(self, mask: np.ndarray):
        """mask: (R, R), 1 where the mouth is generated."""
        at = (np.arange(CELLS) + 0.5) / CELLS
        x, y, rx, ry = MOUTH
        speaks = ((at[None] - x) / rx) ** 2 + ((at[:, None] - y) / ry) ** 2 < 1
        self.cells = (cv2.resize(mask.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA) > 0.9) & ~speaks
        self.seen: dict[int, np.ndarray] = {}

    def look(self, crops: np.ndarray, outputs: np.ndarray) -> None:
        """Remember crops (B, R, R, 3) u8 of output frames (B,)."""
        for picture, k in zip(crops, outputs, strict=True):
            self.seen[int(k)] = cv2.resize(picture, (CELLS, CELLS), interpolation=cv2.INTER_AREA)[self.cells]

    def covered(self) -> np.ndarray:
        """Rising numbers of output frames where something stands before the face."""
        if len(self.seen) < 10:
            return np.zeros(0, np.int64)
        numbers = np.array(sorted(self.seen))
        look = np.stack([self.seen[int(k)] for k in numbers]).astype(np.float32)  # (T, cells, 3)
        # A lamp, not a hand: light that changes on the whole face at once.
        look -= np.median(look, axis=1, keepdims=True) - np.median(look)
        usual = np.median(look, axis=0)
        apart = np.abs(look - usual).max(-1)  # (T, cells)
        spread = np.median(apart, axis=0)
        return numbers[((apart > CHANGED + 3 * spread).mean(1) > SHARE)]
