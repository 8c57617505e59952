"""Which sample is drawn when: a pure function of (seed, step, place), so that a resumed run draws what it would have."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *place: int) -> np.random.Generator:
    """A random generator for one place in a run, such as (step, index in the global batch).

    Hashed, because neighbouring seeds of a generator may be related; the same on any machine.
    """
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def balanced(counts: np.ndarray) -> np.ndarray:
    """Share of draws for each clip of `counts` frames: proportional to the square root of its length.

    Long clips say more than short ones, but not in proportion: half of the frames may come from four people.
    """
    root = np.sqrt(np.asarray(counts, np.float64))
    return root / root.sum()
