"""One door for sound: mono int16 at 16 kHz for features. The output's own audio is copied by VideoWriter instead."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.errors import InputError
from stages.media import ffmpeg
from stages.media.probe import MediaInfo, probe
from stages.shapes import SAMPLE_RATE


def stream_audio(
    path: Path, *, info: MediaInfo | None = None, start_seconds: float = 0.0, seconds: float | None = None,
    chunk_seconds: float = 60.0,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Pieces of the first audio stream, each (n,) i16 mono at 16 kHz, on the same clock as VideoReader.

    A track that starts late is padded with silence, one with gaps too. Raises InputError without an audio stream.
    """
    path = Path(path)
    info = info or probe(path)
    if info.audio is None:
        raise InputError(f"{path}: no audio track")
    window = ["-ss", f"{start_seconds:.6f}"] if start_seconds else []
    limit = ["-t", f"{seconds:.6f}"] if seconds is not None else []
    command = [
        "-v", "error", *window, "-i", ffmpeg.arg(path), "-map", "0:a:0", "-vn",
        # first_pts=0: silence before a late track, so that sample 0 is the file's time 0 as frame 0 is
        "-af", f"aresample={SAMPLE_RATE}:async=1:first_pts=0", "-ac", "1", *limit, "-f", "s16le", "-",
    ]  # fmt: skip
    size = int(chunk_seconds * SAMPLE_RATE) * 2
    got = 0
    with ffmpeg.pipe(command, stdout=True) as (process, errors):
        while data := process.stdout.read(size):
            got += len(data)
            yield np.frombuffer(data[: len(data) // 2 * 2], "<i2")
        process.wait()
        if not got:
            text = ffmpeg.read_errors(errors)
            raise InputError(f"{path}: no sound can be decoded: {ffmpeg.last_line(text)}", detail=ffmpeg.tail(text))


def read_audio(path: Path, *, info: MediaInfo | None = None, start_seconds: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """The whole first audio stream: (n,) i16 mono at 16 kHz (32 kB a second)."""
    return np.concatenate(list(stream_audio(path, info=info, start_seconds=start_seconds, seconds=seconds)))


def audio_seconds(path: Path) -> float:
    """Length of the sound as decoded, which containers often misstate."""
    return sum(len(piece) for piece in stream_audio(path)) / SAMPLE_RATE


def write_wav(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> None:
    """Write (n,) i16 mono samples."""
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(np.ascontiguousarray(samples, "<i2").tobytes())
