"""Which source frame each output frame shows, how far its mouth is ours, and where the work is cut."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from stages.dubbing.reference import Reference
from stages.errors import InputError
from stages.media.feed import pingpong

SEGMENT_SECONDS = (8.0, 12.0)
"""A segment ends at the quietest frame between these."""
FADE_SECONDS = 0.12
"""Over this long the mouth turns into the source's where frames pass through, and back."""


@dataclass(frozen=True)
class Plan:
    """The work of one video of T frames."""

    order: np.ndarray
    """(T,) i64: source frame."""
    presence: np.ndarray
    """(T,) f32: 1 our mouth, 0 the source's (passes through), between them a mix."""
    segments: tuple[tuple[int, int], ...]
    """[start, end) runs of output frames: what is written, kept and continued as one."""


def make_plan(reference: Reference, frames: int, loudness: np.ndarray, fps: Fraction) -> Plan:
    """Raises InputError when the face is lost, or turned away, in every frame that the sound needs."""
    order = pingpong(reference.count, frames)
    usable = reference.usable[order]
    if not usable.any():
        raise InputError("the face is lost or turned away in every frame that the sound needs; give another reference")
    return Plan(order, fade(usable, reference.track.shot[order], round(FADE_SECONDS * fps)), cut(loudness, fps))


def fade(usable: np.ndarray, shot: np.ndarray, length: int) -> np.ndarray:
    """Presence (T,): full where usable, falling to 0 over `length` frames towards frames that are not, but not across a cut."""
    presence = usable.astype(np.float32)
    distance = np.full(len(usable), np.inf)
    for indices in (range(len(usable)), range(len(usable) - 1, -1, -1)):
        last, before = np.inf, None
        for i in indices:
            if before is not None and shot[i] != shot[before]:
                last = np.inf
            last = 0 if not usable[i] else last + 1
            distance[i] = min(distance[i], last)
            before = i
    return np.where(usable, np.minimum(1, distance / (length + 1)), presence).astype(np.float32)


def cut(loudness: np.ndarray, fps: Fraction) -> tuple[tuple[int, int], ...]:
    """Segments of 8 to 12 seconds that end where the sound is quietest, so that the mouth is at rest: a matter of the sound alone."""
    least, most = (max(1, round(s * fps)) for s in SEGMENT_SECONDS)
    starts, total = [0], len(loudness)
    while total - starts[-1] > most:
        a = starts[-1] + least
        quiet = np.convolve(loudness[a : starts[-1] + most + 1], np.ones(3) / 3, mode="same")
        starts.append(a + int(np.argmin(quiet)))
    return tuple(zip(starts, [*starts[1:], total], strict=True))
