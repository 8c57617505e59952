"""Sync meters: what sound and lips say about each other in one clip, 25 times a second.

A meter is fed the clip's frames in order and asked for its score at the end. Which one a run uses is told in its settings;
figures of different meters are different figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from stages.metrics.sync import SYNC_RATE, SyncScore, sync_score, ticks
from stages.shapes import SAMPLE_RATE

if TYPE_CHECKING:
    from stages.metrics.syncnet import SyncNet

FEWEST = 25
"""Windows (1 s) without which a score means nothing."""


class SyncMeter(Protocol):
    """What measures sync."""

    def add(self, frame: np.ndarray, crop: np.ndarray | None, landmarks: np.ndarray | None) -> None:
        """The next frame (H, W, 3) u8, its face crop (R, R, 3) u8 and the landmarks in that (68, 2); None without a face."""
        ...

    def score(self, samples: np.ndarray) -> SyncScore | None:
        """Against sound (n,) i16 at 16 kHz; None where there is too little to tell."""
        ...


class ExpertMeter:
    """difftalk-sync, the expert that ships, on the lips' shape in crops of `resolution` pixels."""

    def __init__(self, resolution: int, fps: float):
        from stages.metrics.expert import load_expert

        self.expert, self.fps = load_expert(), fps
        self._to_crop = np.array([[[1 / resolution, 0, 0], [0, 1 / resolution, 0]]], np.float32)
        self._shapes: list[np.ndarray] = []
        self._frame = 0

    def add(self, frame: np.ndarray, crop: np.ndarray | None, landmarks: np.ndarray | None) -> None:
        from stages.faces import LIPS, lip_shape

        shape = np.full(LIPS, np.nan, np.float32) if landmarks is None else lip_shape(self._to_crop, landmarks[None])[0]
        self._shapes += [shape] * ticks(self._frame, self.fps)
        self._frame += 1

    def score(self, samples: np.ndarray) -> SyncScore | None:
        from stages.metrics.expert import embed
        from stages.speech.mel import log_mel

        if len(samples) < FEWEST * SAMPLE_RATE // SYNC_RATE:
            return None
        rows, shapes = log_mel(samples), np.array(self._shapes)
        count = min(len(shapes), len(rows) // 2)
        if count < FEWEST or np.isfinite(shapes[:count, 0]).sum() < FEWEST:
            return None
        return sync_score(*embed(self.expert, rows, shapes))


class SyncNetMeter:
    """The published protocol with the official weights. `boxes` (T, 3) say where the truth's face is (syncnet.boxes)."""

    def __init__(self, net: SyncNet, boxes: np.ndarray, fps: float):
        from stages.metrics.syncnet import LipEmbedder

        self.net, self.boxes, self.fps = net, boxes, fps
        self._embedder = LipEmbedder(net)
        self._frame = self._shown = 0

    def add(self, frame: np.ndarray, crop: np.ndarray | None, landmarks: np.ndarray | None) -> None:
        from stages.metrics.syncnet import cut

        times = ticks(self._frame, self.fps)
        if times:
            shown = cut(frame, self.boxes[self._frame])
            for _ in range(times):
                self._embedder.add(shown)
        self._frame, self._shown = self._frame + 1, self._shown + times

    def score(self, samples: np.ndarray) -> SyncScore | None:
        from stages.metrics.syncnet import embed_sound, sound_windows, window_count

        lips = self._embedder.embeddings()
        windows = sound_windows(samples)
        count = min(window_count(self._shown, len(samples)), len(lips), len(windows))
        return sync_score(lips[:count], embed_sound(self.net, windows[:count])) if count >= FEWEST else None
