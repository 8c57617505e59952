"""One door for sound: mono int16 at 16 kHz for features. The output's own audio is copied by VideoWriter instead."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.errors import InputError
from stages.media import ffmpeg
from stages.media.probe import MediaInfo, keep_clock, probe
from stages.media.video import RUN_UP, seek
from stages.shapes import SAMPLE_RATE


def stream_audio(
    path: Path, *, info: MediaInfo | None = None, start_seconds: float = 0.0, seconds: float | None = None,
    chunk_seconds: float = 60.0,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Pieces of the first audio stream, each (n,) i16 mono at 16 kHz, on the same clock as VideoReader.

    A track that starts late is padded with silence, one with gaps too. Raises InputError without an audio stream, or
    when there is no sound at or after `start_seconds`.
    """
    path = Path(path)
    info = info or probe(path)
    if info.audio is None:
        raise InputError(f"{path}: no audio track")
    begin = start_seconds + (info.video.lead if info.video else 0.0)
    jump = seek(info, begin - RUN_UP)
    first = round((begin - (float(jump[1]) if jump else 0.0)) * SAMPLE_RATE)
    last = "" if seconds is None else f":end_sample={first + round(seconds * SAMPLE_RATE)}"
    cut = f",atrim=start_sample={first}{last}" if first or last else ""
    command = [
        "-v", "error", *jump, *ffmpeg.source(path), "-map", f"0:a:{info.audio.index}", "-vn",
        # first_pts=0: silence before a late track, so that sample 0 is the file's time 0 as frame 0 is.
        # Gaps of more than a frame are filled; less is the rounding of timestamps.
        "-af", f"aresample={SAMPLE_RATE}:async=1:min_hard_comp=0.03:first_pts=0{cut}",
        "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "s16le", "-", *(keep_clock("0:V:0") if info.video else []),
    ]  # fmt: skip
    size = int(chunk_seconds * SAMPLE_RATE) * 2
    got = 0
    with ffmpeg.pipe(command, stdout=True) as (process, errors):
        while data := process.stdout.read(size):
            got += len(data)
            yield np.frombuffer(data[: len(data) // 2 * 2], "<i2")
        code = process.wait()
        if not got:
            text = ffmpeg.read_errors(errors)
            past = f" at or after {start_seconds:.3f} s" if start_seconds else ""
            why = ffmpeg.last_line(text, code) if code or text else "its track is empty"
            raise InputError(f"{path}: no sound{past} can be decoded: {why}", detail=ffmpeg.tail(text))


def read_audio(path: Path, *, info: MediaInfo | None = None, start_seconds: float = 0.0, seconds: float | None = None) -> np.ndarray:
    """The whole first audio stream: (n,) i16 mono at 16 kHz (32 kB a second)."""
    data = bytearray()  # grows in place: a list of pieces would be held twice when it is joined
    for piece in stream_audio(path, info=info, start_seconds=start_seconds, seconds=seconds):
        data += memoryview(piece).cast("B")
    return np.frombuffer(data, "<i2")


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
