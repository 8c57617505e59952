"""The one mask function, called by training, inference, evaluation and paste-back alike (DESIGN, fix 3).

The mask lies in the canonical crop and is the same for every frame and every person: its shape cannot tell how far
the mouth is open. `paper` is the release's: everything from the nose tip's row down. What is hidden from the networks
is more than speech moves, so that nothing of the mouth is seen; what is pasted back is a narrower part of it (`pasted`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

MaskKind = Literal["lower-face", "mouth", "paper"]

SHAPES = {
    # centre x, centre y, half width, half height in the unit crop; exponent of the superellipse
    "lower-face": (0.5, 0.758, 0.315, 0.236, 4.0),
    "mouth": (0.5, 0.68, 0.235, 0.15, 3.0),
}
PASTED = {
    # what speech moves: cheeks beside it stay the source's
    "lower-face": (0.5, 0.758, 0.26, 0.236, 3.0),
    "mouth": SHAPES["mouth"],
}
WINDOWS = {
    # rows and columns of the unit crop that are denoised: the mask and some face around it
    "lower-face": ((1 / 2, 1), (1 / 8, 7 / 8)),
    "mouth": ((3 / 8, 7 / 8), (1 / 8, 7 / 8)),
    "paper": ((0, 1), (0, 1)),
}
PAPER_ROW = 110 / 256
"""Row of the nose tip (landmark 30) in the template; the release masks it and all below, full width."""

VIEW_MARGIN = 1 / 16
"""What the first stage sees around the window, in the unit crop: nothing of what is farther away is ever shown."""
FEATHER = 0.06
"""Width of the soft edge in the unit crop; it lies inside the mask, so nothing outside is ever touched."""


def mask(resolution: int, kind: MaskKind = "lower-face") -> np.ndarray:
    """(R, R) f32: 1 where the mouth is generated, 0 where the source is kept."""
    return (_level(resolution, kind) > 0).astype(np.float32)


def feathered(resolution: int, kind: MaskKind = "lower-face", feather: float = FEATHER) -> np.ndarray:
    """(R, R) f32 in 0..1: the mask with a smooth edge inside it."""
    return _soft(_level(resolution, kind), feather)


def pasted(resolution: int, kind: MaskKind = "lower-face", feather: float = FEATHER) -> np.ndarray:
    """(R, R) f32 in 0..1: how far a generated mouth replaces the source, nowhere more than `feathered`; a face ends where its
    jaw does, as well (`faces.jaw`)."""
    return _soft(_level(resolution, kind, PASTED), feather)


def _soft(level: np.ndarray, feather: float) -> np.ndarray:
    """From 0 at level 0 to 1 at level `feather`, without a kink: f32."""
    return smoothstep(level / feather if feather > 0 else np.where(level > 0, 1.0, 0.0))


def smoothstep(t: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1 on, between them 3 t^2 - 2 t^3: f32."""
    t = np.clip(t, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def _level(resolution: int, kind: MaskKind, shapes: dict[str, tuple[float, ...]] = SHAPES) -> np.ndarray:
    """About the distance to the mask's edge in unit lengths, positive inside: (R, R) f64."""
    at = (np.arange(resolution) + 0.5) / resolution
    x, y = np.meshgrid(at, at)
    if kind == "paper":
        return np.where(y > PAPER_ROW, np.minimum(y - PAPER_ROW, 1.0) + 1e-9, -1.0)
    cx, cy, rx, ry, p = shapes[kind]
    radius = (np.abs((x - cx) / rx) ** p + np.abs((y - cy) / ry) ** p) ** (1 / p)
    return (1 - radius) * min(rx, ry)


def window(kind: MaskKind, cells: int) -> tuple[slice, slice]:
    """The rows and columns of a latent with side `cells` that hold the mask; only they are denoised (DESIGN, fix 2)."""
    (top, bottom), (left, right) = WINDOWS[kind]
    return slice(round(top * cells), round(bottom * cells)), slice(round(left * cells), round(right * cells))


def view(kind: MaskKind, cells: int) -> tuple[slice, slice]:
    """The rows and columns that the first stage sees: the window and a little around it, half of the crop's area or less."""
    margin = max(1, round(VIEW_MARGIN * cells))
    rows, columns = (slice(max(0, s.start - margin), min(cells, s.stop + margin)) for s in window(kind, cells))
    return rows, columns
