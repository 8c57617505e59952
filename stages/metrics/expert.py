"""difftalk-sync: our own expert on whether lips and sound belong together, with SyncNet's outputs.

Two small networks put 25 moments a second of sound and of lips into one space: sound by 80 log-mel values, so that no acoustic
model which drives a generator also judges it; lips by their shape (stages.faces.lips), less the film's own mean and over its
deviation. They were trained so that a film's lips are nearest to their own moment and not to others up to 15 frames away; offset
and confidence are then read as SyncNet's are (stages.metrics.sync). Architecture and distances are not SyncNet's: never to be
compared with its figures.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.errors import WeightsError
from stages.faces import LIPS, lip_shape
from stages.metrics.sync import SYNC_RATE

WIDTH, EMBEDDING = 48, 16
SHARPNESS = 12.0
"""What distances are multiplied by before they are weighed against each other in training, to begin with."""
STILL = 0.01
"""Deviation of lips that is taken at least, in half-sides of the crop: a mouth that never moved is not blown up."""
BUNDLED = Path(__file__).parent / "difftalk-sync" / "model.safetensors"
"""The weights that ship; MODEL_CARD.md beside them tells how they were made."""


class SyncExpert(nn.Module):
    """Sound rows at 50 Hz and lip shapes at 25 Hz -> embeddings at 25 Hz."""

    def __init__(self, features: int = 80):
        super().__init__()
        self.of_sound = nn.Sequential(
            nn.Conv1d(features, WIDTH, 5, padding=2), nn.GELU(), nn.Conv1d(WIDTH, WIDTH, 5, padding=2, stride=2), nn.GELU(),
            nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.GELU(), nn.Conv1d(WIDTH, EMBEDDING, 1),
        )  # fmt: skip
        self.of_lips = nn.Sequential(
            nn.Conv1d(LIPS, WIDTH, 5, padding=2), nn.GELU(), nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.GELU(),
            nn.Conv1d(WIDTH, EMBEDDING, 1),
        )  # fmt: skip
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS).log())
        self.register_buffer("mean", torch.zeros(features, 1))
        self.register_buffer("deviation", torch.ones(features, 1))

    def sound(self, rows: Tensor) -> Tensor:
        """(B, F, 2 T) -> (B, EMBEDDING, T), of unit length."""
        return F.normalize(self.of_sound((rows - self.mean) / self.deviation), dim=1)

    def lips(self, shapes: Tensor) -> Tensor:
        """(B, 4, T), standardised within the film -> (B, EMBEDDING, T), of unit length."""
        return F.normalize(self.of_lips(shapes), dim=1)


def standardise(shapes: np.ndarray) -> np.ndarray:
    """A film's lips (T, 4), nan where no face is: less their mean, over their deviation, gaps bridged. (T, 4) f32."""
    known = np.isfinite(shapes[:, 0])
    at = np.arange(len(shapes))
    whole = np.stack([np.interp(at, at[known], shapes[known, k]) for k in range(shapes.shape[1])], axis=1)
    return ((whole - whole.mean(0)) / np.maximum(whole.std(0), STILL)).astype(np.float32)


def film_lips(align: np.ndarray, landmarks: np.ndarray, frames: np.ndarray, fps: float) -> np.ndarray:
    """A clip's lips 25 times a second: stored frames `frames` (T,) of the film's timeline -> (T', 4) f32, nan where none is stored."""
    shapes, times = lip_shape(align, landmarks), frames / fps
    at = np.arange(int(times[-1] * SYNC_RATE) + 1) / SYNC_RATE
    even = np.stack([np.interp(at, times, shapes[:, k]) for k in range(LIPS)], axis=1).astype(np.float32)
    even[np.abs(at[:, None] - times).min(1) > 1.5 / min(fps, SYNC_RATE)] = np.nan
    return even


@torch.inference_mode()
def embed(expert: SyncExpert, rows: np.ndarray, shapes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sound rows (R, F) at 50 Hz and lips (T, 4) at 25 Hz, nan where unknown -> embeddings of T' moments of both, (T', EMBEDDING)."""
    count = min(len(shapes), len(rows) // 2)
    sound = expert.sound(torch.from_numpy(np.ascontiguousarray(rows[: 2 * count].T[None])))[0].T.numpy()
    lips = expert.lips(torch.from_numpy(np.ascontiguousarray(standardise(shapes[:count]).T[None])))[0].T.numpy()
    return lips, sound


@functools.lru_cache(maxsize=1)
def load_expert(path: Path = BUNDLED) -> SyncExpert:
    """Raises WeightsError for a file that is not the expert's."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = {name: value.float() for name, value in load_file(path).items()}
        expert = SyncExpert(state["mean"].shape[0])
        expert.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise WeightsError(f"{path}: not difftalk-sync's weights ({error}); install difftalk again") from error
    return expert.requires_grad_(False).eval()
