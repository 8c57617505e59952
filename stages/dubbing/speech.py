"""The driving sound: acoustic windows for each frame, and where the mouth rests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import InputError
from stages.media.audio import read_audio
from stages.media.probe import MediaInfo
from stages.runtime import Runtime
from stages.shapes import SAMPLE_RATE
from stages.speech.windows import neighbours, windows_at


class Speech:
    """The driving sound as windows of acoustic features, made for a few frames at a time."""

    def __init__(
        self, described: dict[str, Any], path: Path, media: MediaInfo, fps: Fraction, acoustic_model: Path | None, runtime: Runtime
    ):
        from stages.speech.encoder import open_encoder

        facts = described["audio"]
        encoder = open_encoder(facts["encoder"], acoustic_model, runtime, output=facts.get("output", "logits"))
        trained_on = {w["sha256"] for w in facts["weights"]}
        if trained_on and trained_on != {w.sha256 for w in encoder.weights}:
            given = acoustic_model or "the acoustic model that ships"
            raise InputError(
                f"{given}: not what the model was trained on (sha256 {', '.join(sorted(trained_on))}); "
                "give that file with --acoustic-model FILE"
            )
        samples = read_audio(path, info=media)
        self.fps, self.seconds = fps, len(samples) / SAMPLE_RATE
        self.frames = round(self.seconds * fps)
        if self.frames < 1:
            raise InputError(f"{path}: {self.seconds * 1000:.0f} ms of sound are less than one frame; give a longer recording")
        self.rows = encoder.encode(samples)  # (R, F)
        self.neighbours = neighbours(self.frames, fps)  # (T, 8)
        self.loudness = loudness(samples, self.frames, fps)  # (T,)

    def windows(self, frames: np.ndarray) -> np.ndarray:
        """(B, 8, 16, F) f32: windows of the neighbours of each output frame, zeros outside the sound."""
        near = self.neighbours[frames]  # (B, 8), -1 where there is none
        needed, back = np.unique(np.maximum(near, 0), return_inverse=True)
        windows = windows_at(self.rows, needed, self.fps)[back.reshape(near.shape)]
        return windows * (near >= 0)[..., None, None]


def loudness(samples: np.ndarray, frames: int, fps: Fraction) -> np.ndarray:
    """Root mean square of (n,) i16 over each of `frames` video frames: (T,) f64."""
    edges = np.minimum(np.round(np.arange(frames + 1) * float(SAMPLE_RATE / fps)).astype(np.int64), len(samples))
    power = np.concatenate([[0.0], np.cumsum(np.square(samples.astype(np.float64)))])
    return np.sqrt((power[edges[1:]] - power[edges[:-1]]) / np.maximum(np.diff(edges), 1))
