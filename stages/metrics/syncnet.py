"""SyncNet itself, for users who have its official weights (`syncnet_v2.model`); none come with difftalk.

Network and inputs follow the release (joonson/syncnet_python): five frames of 224 x 224, BGR, 0..255, and 20 columns of 13
MFCC, each to 1024 numbers. Faces are found by difftalk's landmarks instead of S3FD: the box is made from them, then cut as the
release cuts (centre and size smoothed over 13 frames, crop scale 0.4).
"""

from __future__ import annotations

import pickle
from collections import deque
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from stages.errors import InputError, WeightsError
from stages.shapes import SAMPLE_RATE

PARAMETERS = 13_631_616
FRAMES, COLUMNS, CEPSTRA = 5, 20, 13
"""A window: 5 frames at 25 fps and 20 MFCC columns at 100 Hz, 0.2 s each."""
PER_FRAME = 4
SIDE = 224
CROP_SCALE, GREY, SMOOTHED = 0.4, 110, 13
BATCH = 20
FOREHEAD = 0.25
"""S3FD's box reaches this share of the landmarks' height above the brows."""


def _conv(kind: type[nn.Module], norm: type[nn.Module], inside: int, out: int, *shape: object) -> list[nn.Module]:
    return [kind(inside, out, *shape), norm(out), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNet(nn.Module):
    """Names and places of the layers are the release's, so that its state dict fits."""

    def __init__(self) -> None:
        super().__init__()
        a, v = (nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d)
        self.netcnnaud = nn.Sequential(
            *_conv(*a, 1, 64, 3, 1, 1), nn.MaxPool2d(1, 1),
            *_conv(*a, 64, 192, 3, 1, 1), nn.MaxPool2d(3, (1, 2)),
            *_conv(*a, 192, 384, 3, 1, 1), *_conv(*a, 384, 256, 3, 1, 1), *_conv(*a, 256, 256, 3, 1, 1), nn.MaxPool2d(3, 2),
            *_conv(*a, 256, 512, (5, 4)),
        )  # fmt: skip
        self.netfcaud, self.netfclip = _head(), _head()
        flat, halve = (1, 3, 3), (1, 2, 2)
        self.netcnnlip = nn.Sequential(
            *_conv(*v, 3, 96, (5, 7, 7), halve), nn.MaxPool3d(flat, halve),
            *_conv(*v, 96, 256, (1, 5, 5), halve, (0, 1, 1)), nn.MaxPool3d(flat, halve, (0, 1, 1)),
            *_conv(*v, 256, 256, flat, 1, (0, 1, 1)), *_conv(*v, 256, 256, flat, 1, (0, 1, 1)),
            *_conv(*v, 256, 256, flat, 1, (0, 1, 1)), nn.MaxPool3d(flat, halve),
            *_conv(*v, 256, 512, (1, 6, 6)),
        )  # fmt: skip

    def lips(self, x: Tensor) -> Tensor:
        """(B, 3, 5, 224, 224) BGR in 0..255 -> (B, 1024)."""
        return self.netfclip(self.netcnnlip(x).flatten(1))

    def sound(self, x: Tensor) -> Tensor:
        """(B, 1, 13, 20) MFCC -> (B, 1024)."""
        return self.netfcaud(self.netcnnaud(x).flatten(1))


def load_syncnet(path: Path, device: str = "cpu") -> SyncNet:
    """Raises InputError when there is no such file, WeightsError when it is not SyncNet's state dict."""
    if not path.is_file():
        raise InputError(f"--syncnet {path}: no such file; it is syncnet_v2.model of the SyncNet release")
    net = SyncNet()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = net.load_state_dict(dict(state.items()), strict=False)
        # Counters of batches came to torch after the file was written; nothing is computed with them.
        wrong = found.unexpected_keys + [name for name in found.missing_keys if not name.endswith("num_batches_tracked")]
        if wrong:
            raise RuntimeError(f"{len(wrong)} names do not fit, {wrong[0]} among them")
    except pickle.UnpicklingError as error:
        raise WeightsError(f"--syncnet {path}: not SyncNet's state dict (it is no file of plain tensors)") from error
    except (RuntimeError, OSError, AttributeError, TypeError, EOFError, IndexError, KeyError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(f"--syncnet {path}: not SyncNet's state dict ({reason})") from error
    return net.requires_grad_(False).eval().to(device)


def sound_windows(samples: np.ndarray) -> np.ndarray:
    """(n,) i16 at 16 kHz -> (W, 13, 20) f32, a window from each 25 fps frame's time on, as many as there are MFCC for."""
    from python_speech_features import mfcc

    if len(samples) < SAMPLE_RATE // 5:
        return np.zeros((0, CEPSTRA, COLUMNS), np.float32)
    columns = mfcc(samples, SAMPLE_RATE).astype(np.float32)  # (T, 13)
    starts = range(0, len(columns) - COLUMNS + 1, PER_FRAME)
    found = [columns[s : s + COLUMNS].T for s in starts]
    return np.stack(found) if found else np.zeros((0, CEPSTRA, COLUMNS), np.float32)


def window_count(frames: int, samples: int) -> int:
    """Windows of a clip: the release leaves out the last five frames of the shorter of picture and sound."""
    return max(0, min(frames, samples // 640) - FRAMES)


def boxes(landmarks: np.ndarray) -> np.ndarray:
    """Centre x, centre y and half side of S3FD-like boxes around (T, 68, 2), smoothed as the release does: (T, 3)."""
    low, high = np.nanmin(landmarks, axis=1), np.nanmax(landmarks, axis=1)  # (T, 2)
    low[:, 1] -= FOREHEAD * (high[:, 1] - low[:, 1])
    raw = np.concatenate([(low + high) / 2, (high - low).max(1, keepdims=True) / 2], axis=1)
    from scipy.signal import medfilt

    return np.stack([medfilt(raw[:, k], SMOOTHED) if len(raw) >= SMOOTHED else raw[:, k] for k in range(3)], axis=1)


def cut(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The release's crop of frame (H, W, 3) u8 around `box` (centre x, y, half side s): (224, 224, 3) u8.

    From s above the centre to 1.8 s below, 1.4 s to both sides; grey 110 outside the picture.
    """
    x, y, s = (float(v) for v in box)
    around = int(s * (1 + 2 * CROP_SCALE))
    padded = cv2.copyMakeBorder(frame, *[around] * 4, cv2.BORDER_CONSTANT, value=(GREY,) * 3)
    cx, cy = x + around, y + around
    rows = slice(max(0, int(cy - s)), int(cy + s * (1 + 2 * CROP_SCALE)))
    columns = slice(max(0, int(cx - s * (1 + CROP_SCALE))), int(cx + s * (1 + CROP_SCALE)))
    part = padded[rows, columns]
    if not part.size:
        return np.full((SIDE, SIDE, 3), GREY, np.uint8)
    return cv2.resize(part, (SIDE, SIDE))


class LipEmbedder:
    """Crops in order -> one embedding for each window of five; at most a batch of windows is kept."""

    def __init__(self, net: SyncNet):
        self.net, self.device = net, next(net.parameters()).device
        self._held: deque[np.ndarray] = deque(maxlen=FRAMES)
        self._waiting: list[np.ndarray] = []
        self._done: list[np.ndarray] = []

    def add(self, crop: np.ndarray) -> None:
        """(224, 224, 3) u8 RGB."""
        self._held.append(crop)
        if len(self._held) == FRAMES:
            self._waiting.append(np.stack(self._held))
            if len(self._waiting) == BATCH:
                self._flush()

    def embeddings(self) -> np.ndarray:
        """(W, 1024) f32."""
        self._flush()
        return np.concatenate(self._done) if self._done else np.zeros((0, 1024), np.float32)

    @torch.inference_mode()
    def _flush(self) -> None:
        if self._waiting:
            x = torch.from_numpy(np.stack(self._waiting)[..., ::-1].copy()).to(self.device).float()  # (B, 5, 224, 224, 3) BGR
            self._done.append(self.net.lips(x.permute(0, 4, 1, 2, 3)).cpu().numpy())
            self._waiting = []


@torch.inference_mode()
def embed_sound(net: SyncNet, windows: np.ndarray) -> np.ndarray:
    """(W, 13, 20) -> (W, 1024) f32."""
    device = next(net.parameters()).device
    parts = [windows[i : i + 256] for i in range(0, len(windows), 256)]
    found = [net.sound(torch.from_numpy(p[:, None]).to(device)).cpu().numpy() for p in parts]
    return np.concatenate(found) if found else np.zeros((0, 1024), np.float32)
