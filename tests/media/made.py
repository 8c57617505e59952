"""Made clips: each frame carries its number as a pattern of light and dark squares, each sound its clicks."""

from __future__ import annotations

import functools
import re
import subprocess
import wave
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from stages.media import MediaInfo, ffmpeg_binary, probe

SIZE = (160, 120)
BITS = 12

CONTAINERS: dict[str, list[str]] = {
    "mp4": "-c:v libx264 -preset veryfast -g 12 -bf 2 -pix_fmt yuv420p -c:a aac".split(),
    "mov": "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p -c:a pcm_s16le".split(),
    "mkv": "-c:v libx264 -preset veryfast -g 12 -bf 2 -pix_fmt yuv420p10le -c:a flac".split(),
    "webm": "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 12 -pix_fmt yuv420p -c:a libopus".split(),
    "mpg": "-c:v mpeg1video -q:v 3 -g 12 -bf 2 -c:a mp2".split(),
    "vob": "-c:v mpeg2video -q:v 3 -g 12 -bf 2 -c:a mp2 -f vob".split(),
    "ts": "-c:v libx264 -preset veryfast -g 12 -bf 2 -pix_fmt yuv420p -c:a aac".split(),
    "avi": "-c:v mpeg4 -q:v 3 -g 12 -c:a pcm_s16le".split(),
    "flv": "-c:v flv1 -q:v 3 -g 12 -c:a libmp3lame -ar 44100".split(),
    "wmv": "-c:v wmv2 -q:v 3 -g 12 -c:a wmav2".split(),
    "gif": [],
}


def coded(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3) u8: 4 x 3 squares, light where the number's bit is set."""
    w, h = size
    bits = np.array([(number >> k) & 1 for k in range(BITS)], np.uint8).reshape(3, 4)
    rows, columns = np.arange(h) * 3 // h, np.arange(w) * 4 // w
    return np.repeat((40 + 175 * bits[rows][:, columns])[..., None], 3, axis=2).astype(np.uint8)


def number(frame: np.ndarray) -> int:
    """What `coded` put into it."""
    h, w = frame.shape[:2]
    light = [frame[(2 * r + 1) * h // 6, (2 * c + 1) * w // 8].mean() > 127 for r in range(3) for c in range(4)]
    return sum(int(bit) << k for k, bit in enumerate(light))


def ffmpeg(*args: object, stdin: bytes | None = None) -> str:
    """Run ffmpeg with these arguments; what it said."""
    command = [ffmpeg_binary(), "-hide_banner", "-y", *map(str, args)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
    text = (done.stderr + done.stdout).decode(errors="replace")
    assert done.returncode == 0, f"{command}\n{text}"
    return text


def raw(fps: Fraction | int | str, size: tuple[int, int] = SIZE) -> list[str]:
    """Input options for raw frames on stdin."""
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-framerate", str(fps), "-i", "-"]


def video(
    path: Path,
    frames: int | Iterable[np.ndarray] = 25,
    fps: Fraction | int | str = 25,
    *,
    audio: Path | None = None,
    options: list[str] | None = None,
    before: Iterable[str] = (),
    audio_before: Iterable[str] = (),
    size: tuple[int, int] = SIZE,
) -> Path:
    """Make a clip; the codecs are the container's usual ones unless `options` names others."""
    pictures = [coded(i, size) for i in range(frames)] if isinstance(frames, int) else list(frames)
    sound = [*audio_before, "-i", str(audio)] if audio else []
    maps = ["-map", "0:v", "-map", "1:a"] if audio else []
    kind = path.suffix[1:]
    chosen = [*maps, *(CONTAINERS[kind] if options is None else options)]
    if not audio and "-c:a" in chosen:
        at = chosen.index("-c:a")
        del chosen[at : at + 2]
    ffmpeg(*before, *raw(fps, size), *sound, *chosen, f"file:{path}", stdin=b"".join(p.tobytes() for p in pictures))
    return path


@functools.cache
def known(path: Path) -> MediaInfo:
    """probe, once for a made clip that does not change any more."""
    return probe(path)


def clicks(path: Path, seconds: float, at: Iterable[float], rate: int = 48_000, channels: int = 1) -> Path:
    """A wav of silence with 5 ms bursts at the times `at`."""
    sound = np.zeros((round(seconds * rate), channels), np.int16)
    burst = (20_000 * np.sin(2 * np.pi * 2000 * np.arange(rate // 200) / rate)).astype(np.int16)
    for t in at:
        i = round(t * rate)
        sound[i : i + len(burst)] = burst[: len(sound) - i, None]
    with wave.open(str(path), "wb") as f:
        f.setnchannels(channels)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes(sound.tobytes())
    return path


def click_times(samples: np.ndarray, rate: int = 16_000) -> list[float]:
    """Seconds at which the bursts of `clicks` begin."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 4000)
    starts = loud[np.flatnonzero(np.diff(loud, prepend=-rate) > rate // 10)]
    return [float(s) / rate for s in starts]


def vary() -> list[str]:
    """Output option that keeps the frames' own times."""
    version = re.search(r"ffmpeg version n?(\d+)\.(\d+)", ffmpeg("-version"))
    return ["-vsync", "vfr"] if version and (int(version[1]), int(version[2])) < (5, 1) else ["-fps_mode", "vfr"]


def variable(path: Path, hundredths: list[int], **how: Any) -> Path:
    """A clip whose frames are shown at these hundredths of a second, each carrying its time as its number."""
    chosen = "+".join(f"eq(n\\,{n})" for n in hundredths)
    options = CONTAINERS[path.suffix[1:]] if "options" not in how else how.pop("options")
    frames = (coded(n) for n in range(hundredths[-1] + 1))
    return video(path, frames, 100, options=["-vf", f"select={chosen}", *vary(), *options], **how)
