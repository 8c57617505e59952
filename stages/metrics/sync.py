"""How far sound and lips are apart, and how surely: SyncNet's arithmetic on embeddings of 25 windows a second.

Chung & Zisserman, "Out of time: automated lip sync in the wild" (2016), as its release computes it: every video window is
compared with the sounds up to 15 frames before and after it; the distances are averaged over time. Sign: an offset of +k says
that the sound comes k frames before the mouth that belongs to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VSHIFT = 15
"""Frames of 40 ms looked at on either side."""
SYNC_RATE = 25
"""Frames a second that offsets are counted in."""
EPSILON = 1e-6
"""torch's pairwise_distance adds it to every difference."""


@dataclass(frozen=True)
class SyncScore:
    """One clip's."""

    offset: float
    """Frames at 25 a second."""
    confidence: float
    """Median of the curve minus its least value (LSE-C)."""
    distance: float
    """Least value (LSE-D)."""
    curve: np.ndarray
    """(31,) f32 mean distance for the offsets `offsets()`."""


def offsets(vshift: int = VSHIFT) -> np.ndarray:
    """The offset that each place of a curve stands for: +15 .. -15."""
    return vshift - np.arange(2 * vshift + 1)


def sync_score(video: np.ndarray, audio: np.ndarray, vshift: int = VSHIFT) -> SyncScore:
    """Embeddings (N, D) of the windows' pictures and sounds -> offset, confidence and distance. Missing sound is zero."""
    assert video.shape == audio.shape and video.ndim == 2 and len(video), (video.shape, audio.shape)
    padded = np.pad(audio.astype(np.float64), [(vshift, vshift), (0, 0)])
    curve = np.array([
        np.linalg.norm(video - padded[k : k + len(video)] + EPSILON, axis=1).mean() for k in range(2 * vshift + 1)
    ])  # fmt: skip
    best = int(curve.argmin())
    return SyncScore(float(vshift - best), float(np.median(curve) - curve[best]), float(curve[best]), curve.astype(np.float32))


def ticks(frame: int, fps: float) -> int:
    """How often video frame `frame` is shown in a film at 25 frames a second that takes the nearest in time."""

    def first(k: int) -> int:  # the first tick j with round(j * fps / 25) >= k, halves up
        return int(np.ceil((k - 0.5) * SYNC_RATE / fps - 1e-9))

    return max(0, first(frame + 1)) - max(0, first(frame))
