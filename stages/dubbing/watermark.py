"""The invisible mark in every generated mouth: that it is synthetic can be found again after encoding, scaling and cropping.

A few of the slowest waves of light inside the mask (cosines of luma, in the canonical crop) are drawn towards the points of a
lattice: quantisation index modulation (Chen & Wornell 2001), here by a sine, which moves most where it helps most. The lattice
slides by one step a second. What a face shows by itself, even one that keeps still, therefore falls evenly between the points,
and three seconds of a mark too weak to be seen outweigh it; compression keeps slow waves. Found by following the face, so
the mark moves with it. Colours are left alone: a tint of three levels is seen on skin, where as much light and shade is not.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from stages.faces.mask import MaskKind, feathered

SIDE = 256
"""Side of the crop that the mark is defined on."""
WAVES = [(u, v) for u in range(10) for v in range(10) if 0 < u + v <= 9]
"""Half periods across and down."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
STEPS = (4.0, 6.0, 9.0)
"""Distance of the lattice's points in grey levels: for large faces, and for small and tiny ones, of which less survives."""
REACH = 0.9
"""How far a wave may be moved, of what it takes before waves overtake each other (1 / 2 pi of a step)."""
SMALL = (0.8, 1.45)
"""Crop pixels a source pixel from which on a face is small, and tiny."""
LOYAL = 1.15
"""A face keeps its lattice until its size is past the border by this factor: frames on two lattices are on none."""
SPEED = 1.0
"""Steps a second that the lattice slides by."""
THRESHOLD = 4.5
"""Score from which on a mark is said to be there: chance passes it once in 10,000 (`score`, three lattices)."""


def region(kind: MaskKind) -> MaskKind:
    """The mask that the mark lies in; the paper's mask holds the lower face's."""
    return "mouth" if kind == "mouth" else "lower-face"


@cache
def _basis(kind: MaskKind) -> tuple[tuple[slice, slice], np.ndarray, float]:
    """(the part of the crop that is touched, orthonormal waves (K, h w) f32, grey levels of a unit of each)."""
    weight = feathered(SIDE, kind) ** 2
    ys, xs = np.nonzero(weight)
    part = slice(int(ys.min()), int(ys.max()) + 1), slice(int(xs.min()), int(xs.max()) + 1)
    weight = weight[part]
    y, x = ((np.arange(n) + 0.5) / n for n in weight.shape)
    waves = np.stack([np.outer(np.cos(np.pi * v * y), np.cos(np.pi * u * x)) * weight for u, v in [(0, 0), *WAVES]])
    flat = np.linalg.qr(waves.reshape(len(waves), -1).T)[0].T[1:]  # across the mean, which anything may move
    return part, np.ascontiguousarray(flat, np.float32), 2 / float((weight > 0.5).sum()) ** 0.5


@cache
def _offsets() -> np.ndarray:
    """Where the lattices begin, in steps (K,): the secret, which is open here, as everything is."""
    return np.random.Generator(np.random.Philox(key=0xD1FF)).uniform(0, 1, len(WAVES))


def measure(crop: np.ndarray, kind: MaskKind) -> np.ndarray:
    """Waves of a canonical crop (R, R, 3) u8 or f32, in grey levels of luma: (K,) f32."""
    if len(crop) != SIDE:
        crop = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA if len(crop) > SIDE else cv2.INTER_CUBIC)
    part, waves, level = _basis(kind)
    return waves @ (crop[part].reshape(-1, 3).astype(np.float32) @ LUMA) * level


class Marker:
    """Marks the mouths of a film, or of any stretch of it."""

    def __init__(self, kind: MaskKind, resolution: int):
        self.kind, self.resolution = region(kind), resolution
        self.level = -1

    def __call__(self, crop: np.ndarray, scale: float, seconds: float) -> np.ndarray:
        """The mark of a crop (R, R, 3) u8 or f32: grey levels to add, (R, R) f32, zero outside the mask. `scale` is crop pixels (of 256)
        a source pixel, `seconds` its time in the film."""
        step = STEPS[self._level(scale)]
        place = 2 * np.pi * (measure(crop, self.kind) / step - _offsets() - SPEED * seconds)
        moved = -REACH * step / (2 * np.pi) * np.sin(place)  # grey levels (K,)
        part, waves, level = _basis(self.kind)
        shape = (part[0].stop - part[0].start, part[1].stop - part[1].start)
        change = np.zeros((SIDE, SIDE), np.float32)
        change[part] = ((moved / level).astype(np.float32) @ waves).reshape(shape)
        if self.resolution != SIDE:
            change = cv2.resize(change, (self.resolution, self.resolution), interpolation=cv2.INTER_LINEAR)
        return change

    def _level(self, scale: float) -> int:
        """Which of STEPS a face of this size takes, after the frames before."""
        level = int(np.searchsorted(SMALL, scale))
        grown, shrunk = scale > LOYAL * SMALL[min(level, len(SMALL)) - 1], scale * LOYAL < SMALL[min(level, len(SMALL) - 1)]
        if self.level < 0 or (level > self.level and grown) or (level < self.level and shrunk):
            self.level = level
        return self.level


def score(waves: np.ndarray, seconds: np.ndarray) -> float:
    """How surely waves (T, K) at times (T,) carry the mark: the best of all lattices.

    Where in its second the lattice began is not known of a film that was cut: the waves' mean phases are added as arrows, and
    the sum's length is what counts. Without a mark it passes x as rarely as exp(-x^2 / 2); with it, it reaches 10.
    """
    best = 0.0
    for step in STEPS:
        phase = np.exp(2j * np.pi * (waves / step - _offsets() - SPEED * seconds[:, None])).mean(0)  # (K,)
        best = max(best, float(np.abs(phase.sum()) / np.sqrt(np.square(np.abs(phase)).sum() / 2)))
    return best
