"""Making a generated mouth belong to its frame: colours matched at the seam, and the skin's fine detail kept."""

from __future__ import annotations

import cv2
import numpy as np

SEAM_CELLS = 32
"""Side of the grid on which colours are matched: only slow differences are a matter of colour."""
REACH = 0.12
"""How far a difference at the seam is felt inside, in crop sides."""
MOST = 16.0
"""Grey levels that colours are moved by at most."""
SAME = 6.0
"""Grey levels by which generated and source skin may differ and still share their fine detail."""


def match_colours(generated: np.ndarray, source: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Move the slow colours of crops (B, R, R, 3) u8 so that they meet the source's where `known` (R, R) bool: (B, R, R, 3) u8.

    `known` is what was given to the generator and should have come back as it was; what did not is carried on inside.
    """
    side, weight = generated.shape[1], _small(known.astype(np.float32))
    share = cv2.GaussianBlur(weight, (0, 0), REACH * SEAM_CELLS)
    matched = []
    for made, true in zip(generated, source, strict=True):
        difference = _small((true.astype(np.float32) - made) * known[..., None])  # already weighted by `known`
        slow = cv2.GaussianBlur(difference, (0, 0), REACH * SEAM_CELLS) / np.maximum(share, 1e-3)[..., None]
        slow = cv2.resize(np.clip(slow, -MOST, MOST), (side, side), interpolation=cv2.INTER_LINEAR)
        matched.append(np.clip(np.rint(made + slow), 0, 255).astype(np.uint8))
    return np.stack(matched)


def _small(x: np.ndarray) -> np.ndarray:
    return cv2.resize(x, (SEAM_CELLS, SEAM_CELLS), interpolation=cv2.INTER_AREA)


def seam(mask: np.ndarray, view: tuple[slice, slice], width: float = 0.06) -> np.ndarray:
    """(R, R) bool: the ring around the mask (R, R), inside the view, that tells how well colours were met."""
    side = len(mask)
    reach = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), width * side)
    ring = np.zeros_like(mask, bool)
    ring[view] = (mask[view] == 0) & (reach[view] > 0.02)
    return ring


def detail_share(generated: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Where crops (R, R, 3) u8 show the same skin: (R, R) f32, 1 where the source's fine detail fits, 0 where the mouth moved."""
    side = generated.shape[0]
    apart = cv2.GaussianBlur(generated.astype(np.float32) - source, (0, 0), side / 64)
    return np.exp(-np.square(apart / SAME).mean(-1)).astype(np.float32)
