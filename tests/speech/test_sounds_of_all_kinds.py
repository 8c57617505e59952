"""Whatever a recording looks like, its features are those of the speech in it, or the error says what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.errors import InputError
from stages.media import ffmpeg
from stages.media.audio import read_audio, write_wav
from stages.runtime import Runtime
from stages.shapes import SAMPLE_RATE
from stages.speech.encoder import Encoder, open_encoder

SPEECH = Path(__file__).parents[1] / "data" / "speech.wav"
CPU = Runtime(device="cpu")

FORMATS = {
    "8k.wav": "-ar 8000",
    "22k.wav": "-ar 22050",
    "44k.wav": "-ar 44100",
    "48k-stereo.wav": "-ar 48000 -ac 2",
    "24-bit.wav": "-ar 48000 -c:a pcm_s24le",
    "32-bit.wav": "-c:a pcm_s32le",
    "float.wav": "-ar 44100 -c:a pcm_f32le",
    "double.wav": "-c:a pcm_f64le",
    "8-bit.wav": "-c:a pcm_u8",
    "mu-law.wav": "-ar 8000 -c:a pcm_mulaw",
    "a.m4a": "-c:a aac -b:a 96k",
    "a.mp3": "-c:a libmp3lame -b:a 64k",
    "a.ogg": "-c:a libvorbis",
    "a.opus": "-c:a libopus -b:a 32k",
    "a.flac": "-ar 44100",
    "5.1.wav": "-af pan=5.1|FC=c0 -ar 48000",
}
LEAST = {"8k.wav": 0.75, "mu-law.wav": 0.7, "8-bit.wav": 0.8, "a.opus": 0.9, "a.mp3": 0.9}
"""Correlation with the original's features; half of the band is gone at 8 kHz."""


@pytest.fixture(scope="module", params=["deepspeech", "mel"])
def encoder(request) -> Encoder:
    return open_encoder(request.param, None, CPU, threads=1)


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return read_audio(SPEECH)[: 4 * SAMPLE_RATE]


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two feature arrays, each feature's own mean removed."""
    n = min(len(a), len(b))
    a, b = a[:n] - a[:n].mean(0), b[:n] - b[:n].mean(0)
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


@pytest.mark.parametrize("name", list(FORMATS))
def test_every_format_gives_the_features_of_the_speech_in_it(encoder, samples, tmp_path, name):
    write_wav(tmp_path / "speech.wav", samples)
    ffmpeg.run(["-v", "error", *ffmpeg.source(tmp_path / "speech.wav"), *FORMATS[name].split(), str(tmp_path / name)])
    wanted, found = encoder.encode(samples), encoder.encode(read_audio(tmp_path / name))
    assert abs(len(found) - len(wanted)) <= 2  # AAC and Opus pad their last packet
    assert likeness(wanted, found) > LEAST.get(name, 0.95)
    shifted = [likeness(wanted[5:-5], found[5 + k : len(wanted) - 5 + k]) for k in (-2, -1, 0, 1, 2)]
    assert int(np.argmax(shifted)) == 2, "the features must not move in time"


@pytest.mark.parametrize(
    "change, least",
    [
        (lambda x: x * 0.05, 0.9),  # 26 dB quieter
        (lambda x: np.clip(x * 3, -32768, 32767), 0.75),  # driven into clipping
        (lambda x: np.clip(x * 0.5 + 8000, -32768, 32767), 0.9),  # a constant offset of a quarter of full scale
    ],
    ids=["quiet", "clipped", "offset"],
)
def test_a_bad_recording_keeps_most_of_its_features(encoder, samples, change, least):
    spoiled = change(samples.astype(np.float64)).round().astype(np.int16)
    assert likeness(encoder.encode(samples), encoder.encode(spoiled)) > least


@pytest.mark.parametrize("sound", ["silence", "constant", "50 ms", "one click", "full scale noise"])
def test_sound_without_speech_gives_finite_features_of_its_length(encoder, sound):
    n = 3 * SAMPLE_RATE
    sounds = {
        "silence": np.zeros(n),
        "constant": np.full(n, 12_000),
        "50 ms": np.arange(800) % 50 * 100,
        "one click": np.eye(1, n, n // 2)[0] * 30_000,
        "full scale noise": np.random.default_rng(0).choice([-32768, 32767], n),
    }
    x = sounds[sound].astype(np.int16)
    rows = encoder.encode(x)
    assert rows.shape == (round(len(x) / 320), encoder.features) and np.isfinite(rows).all()


def test_sound_that_is_empty_is_an_error(encoder, tmp_path):
    with pytest.raises(InputError, match="more than 10 ms"):
        encoder.encode(np.zeros(100, np.int16))
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(InputError, match="empty.wav"):
        read_audio(tmp_path / "empty.wav")
    write_wav(tmp_path / "none.wav", np.zeros(0, np.int16))
    with pytest.raises(InputError, match="none.wav"):
        read_audio(tmp_path / "none.wav")
