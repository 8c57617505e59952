from __future__ import annotations

import struct

import numpy as np
import pytest

from stages.errors import WeightsError
from stages.speech.training.whisper import WhisperEncoder, mel_filters, read_ctranslate2


def write(path, variables: dict[str, np.ndarray], name: str = "WhisperSpec", version: int = 6) -> None:
    """A CTranslate2 file of these float16 variables."""

    def text(s: str) -> bytes:
        return struct.pack("<H", len(s) + 1) + s.encode() + b"\0"

    data = struct.pack("<I", version) + text(name) + struct.pack("<II", 3, len(variables))
    for key, x in variables.items():
        data += text(key) + struct.pack("<B", x.ndim) + struct.pack(f"<{x.ndim}I", *x.shape) + struct.pack("<BI", 4, x.nbytes) + x.tobytes()
    path.write_bytes(data + struct.pack("<I", 1) + text("encoder/again") + text("encoder/conv1/bias"))


def small(rng, width: int = 12) -> dict[str, np.ndarray]:
    def f(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) * 0.3).astype(np.float16)

    found = {"encoder/conv1/weight": f(width, 80, 3), "encoder/conv1/bias": f(width), "encoder/conv2/weight": f(width, width, 3)}
    found |= {"encoder/conv2/bias": f(width), "encoder/position_encodings/encodings": f(1500, width)}
    for i in range(2):
        at = f"encoder/layer_{i}/"
        for norm in ("self_attention/layer_norm/", "ffn/layer_norm/"):
            found |= {at + norm + "gamma": f(width), at + norm + "beta": f(width)}
        for layer, o, n in (
            ("self_attention/linear_0", 3, 1),
            ("self_attention/linear_1", 1, 1),
            ("ffn/linear_0", 4, 1),
            ("ffn/linear_1", 1, 4),
        ):
            found |= {f"{at}{layer}/weight": f(o * width, n * width), f"{at}{layer}/bias": f(o * width)}
    return found


def test_a_model_file_is_read_as_it_was_written(tmp_path):
    variables = small(np.random.default_rng(0))
    write(tmp_path / "model.bin", variables)
    found = read_ctranslate2(tmp_path / "model.bin")
    assert all(np.array_equal(found[k], x) for k, x in variables.items())
    assert np.array_equal(found["encoder/again"], variables["encoder/conv1/bias"])


def test_rows_are_50_a_second_and_silence_behind_the_speech_does_not_move_them(tmp_path):
    write(tmp_path / "model.bin", small(np.random.default_rng(0)))
    encoder = WhisperEncoder(tmp_path / "model.bin", layers=2)
    x = (np.random.default_rng(1).normal(size=16_000) * 1000).astype(np.int16)
    y = encoder.features(x)
    assert y.shape == (50, 12) and y.dtype == np.float32 and np.isfinite(y).all()


@pytest.mark.parametrize("case", ["garbage", "empty", "cut", "other"])
def test_another_file_is_refused(tmp_path, case):
    path = tmp_path / "model.bin"
    write(path, small(np.random.default_rng(0)), name="TransformerSpec" if case == "other" else "WhisperSpec")
    path.write_bytes({"garbage": b"<html>" * 99, "empty": b"", "cut": path.read_bytes()[:5000], "other": path.read_bytes()}[case])
    with pytest.raises(WeightsError, match="model.bin"):
        read_ctranslate2(path)


def test_mel_filters_are_slaneys():
    filters = mel_filters()
    assert filters.shape == (80, 201)
    centres = (filters * np.arange(201)).sum(1) / filters.sum(1) * 40
    assert np.all(np.diff(centres) > 0) and 30 < centres[0] < 60 and 7500 < centres[-1] < 8000
    # equal area: a triangle's height is 2 / its width in Hz (librosa's norm="slaney")
    wide = filters[60]
    inside = np.flatnonzero(wide)
    assert wide.max() * (inside[-1] - inside[0] + 2) * 40 == pytest.approx(2, rel=0.15)
