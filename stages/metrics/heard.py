"""Sync meters: what sound and lips say about each other in one clip, 25 times a second.

A meter is fed the clip's frames in order and asked for its score at the end. Which one a run uses is told in its settings;
figures of different meters are different figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from stages.metrics.mouth import correlation, lip_opening
from stages.metrics.sync import VSHIFT, SyncScore, sync_score, ticks

if TYPE_CHECKING:
    from stages.metrics.syncnet import SyncNet
    from stages.speech.encoder import Encoder

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


class OpeningMeter:
    """How the lips' opening correlates with the opening that the acoustic model hears: no sync expert, only a correlation.

    The mean of the acoustic model's 29 logits is its own prediction of how far the lips are open (its model card); other
    acoustic models do not keep this, so it is always the one that ships. The "distance" is one minus the correlation.
    """

    def __init__(self, encoder: Encoder, fps: float):
        self.encoder, self.fps = encoder, fps
        self._openings: list[float] = []
        self._frame = 0

    def add(self, frame: np.ndarray, crop: np.ndarray | None, landmarks: np.ndarray | None) -> None:
        opening = float("nan") if landmarks is None else float(lip_opening(landmarks))
        self._openings += [opening] * ticks(self._frame, self.fps)
        self._frame += 1

    def score(self, samples: np.ndarray) -> SyncScore | None:
        heard = self.encoder.encode(samples).mean(1)[::2]  # 25 Hz
        count = min(len(self._openings), len(heard))
        seen = np.array(self._openings[:count])
        if count < FEWEST or np.isfinite(seen).sum() < FEWEST:
            return None
        padded = np.pad(heard[:count].astype(np.float64), VSHIFT, constant_values=np.nan)
        curve = 1 - np.array([correlation(seen, padded[k : k + count]) for k in range(2 * VSHIFT + 1)])
        if not np.isfinite(curve).all():
            return None
        best = int(curve.argmin())
        return SyncScore(float(VSHIFT - best), float(np.median(curve) - curve[best]), float(curve[best]), curve.astype(np.float32))


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
