"""Random access to the crops of a clips artifact, memory-mapped: training never holds them in RAM."""

from __future__ import annotations

import numpy as np

from stages.artifacts import Artifact, Clip
from stages.errors import InputError
from stages.training.order import balanced


class ClipSet:
    """Clips of one side of the split with the frames that a training may use."""

    def __init__(self, clips: list[Clip], what: str):
        if not clips:
            how = "run `difftalk preprocess` with more videos, or with other shares"
            raise InputError(f"no clips to {what}: all are held out, or preprocess kept none; {how}")
        self.clips = clips
        self.counts = np.array([c.facts["frames"] for c in clips])
        self.share = balanced(self.counts)

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """(clip, frame) with clips weighted by the square root of their length."""
        clip = int(rng.choice(len(self.clips), p=self.share))
        return clip, int(rng.integers(self.counts[clip]))

    def spread(self, number: int) -> list[tuple[int, int]]:
        """About `number` (clip, frame) places, evenly over clips and within them; always the same."""
        each = max(1, number // len(self.clips))
        picks = [(c, int(f)) for c, n in enumerate(self.counts) for f in np.linspace(0, n - 1, min(each, n) + 2)[1:-1]]
        return [picks[i] for i in np.unique(np.linspace(0, len(picks) - 1, min(number, len(picks))).astype(int))]


def split_clips(work: Artifact, side: str) -> list[Clip]:
    """The committed clips of `train` or `val`, by id."""
    split = work.manifest["facts"]["split"]
    return [clip for id, clip in work.clips.items() if split[id] == side]
