"""What a media file holds, from ffmpeg's own words and its packet list: no ffprobe needed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from stages.errors import InputError
from stages.media import colour, ffmpeg

STANDARD_RATES = (
    *(Fraction(n * 1000, 1001) for n in (15, 24, 30, 48, 60, 120)),
    *(Fraction(n) for n in (5, 8, 10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120)),
)

CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}

NO_TIME = ("NOPTS", str(-(2**63)))
"""How ffmpeg prints a packet without a timestamp."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """The first real video stream, as it is shown (rotation applied)."""

    width: int
    height: int
    fps: Fraction
    """Constant rate at which frames are read; the nominal one if the file's own rate varies."""
    variable: bool
    """The timestamps are not evenly spaced: frames are repeated or dropped to keep sound and picture together."""
    rotation: int
    """Degrees that the file asks to be turned by; frames come turned already."""
    pixel_format: str
    matrix: str
    """Colour matrix tag (bt709, smpte170m, ...) or empty when the file has none."""
    primaries: str
    transfer: str
    full_range: bool
    sample_aspect: str
    """Pixel shape w:h, 1:1 for square."""
    codec: str
    interlaced: Literal["", "top", "bottom"] = ""
    """Which field is shown first where the frames hold two; they are read as they are, woven."""
    lead: float = 0.0
    """Seconds, below 1/fps, from the start of the file to the grid of frame times: many containers start with a little
    coder delay of the sound before the first picture. Frames and `read_audio` both count from there."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """The first audio stream that ffmpeg has a decoder for."""

    codec: str
    sample_rate: int
    channels: str
    index: int = 0
    """Which of the file's audio streams."""


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Raises nothing: a file without video or audio has None there."""

    path: Path
    seconds: float | None
    """Duration that the container states."""
    video: VideoInfo | None
    audio: AudioInfo | None
    container: str = ""
    """ffmpeg's names for it: `mov,mp4,m4a,3gp,3g2,mj2`, `matroska,webm`, `mpegts` ..."""


def probe(path: Path) -> MediaInfo:
    """Read the headers and, for video, the packet timestamps (no decoding).

    Raises InputError for a file that is absent, empty, or that ffmpeg cannot open.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: a folder, not a file; give one video, photo or recording")
    if not path.is_file():
        raise InputError(f"{path}: not an ordinary file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    _, text, code = ffmpeg.run(ffmpeg.source(path))
    opened = re.search(r"^Input #0, (\S+), from ", text, re.M)
    if not opened:
        hint = " (it ends before its index: recorded or copied incompletely?)" if "moov atom not found" in text else ""
        hint = f" ({ffmpeg.last_line(text, code)})" if code < 0 else hint
        raise InputError(f"{path}: not a media file that ffmpeg can open{hint}", detail=ffmpeg.tail(text))
    duration = re.search(r"^  Duration: (\d+):(\d+):([\d.]+)", text, re.M)
    seconds = None
    if duration:
        h, m, s = duration.groups()
        seconds = int(h) * 3600 + int(m) * 60 + float(s)
    streams = re.split(r"^(?=\s+Stream #0:)", text, flags=re.M)[1:]
    audio = _audio(streams)
    return MediaInfo(path=path, seconds=seconds, video=_video(path, streams, audio), audio=audio, container=opened[1])


def _audio(streams: list[str]) -> AudioInfo | None:
    for index, stream in enumerate(s for s in streams if re.match(r"\s+Stream #0:\S+: Audio: ", s)):
        found = re.match(r"\s+Stream #0:\S+: Audio: (\w+).*?, (\d+) Hz, ([^,\n]+)", stream)
        if found and found[1] != "none":  # a phone's spatial sound, say: the plain track stands beside it
            return AudioInfo(codec=found[1], sample_rate=int(found[2]), channels=found[3].strip(), index=index)
    return None


def _video(path: Path, streams: list[str], audio: AudioInfo | None) -> VideoInfo | None:
    stills = re.compile(r"\(attached pic\)|\(timed thumbnails\)")
    pictures = [s for s in streams if re.match(r"\s+Stream #0:\S+: Video: ", s) and not stills.search(s)]
    if not pictures:
        return None
    block = pictures[0]
    line = block.strip().splitlines()[0]
    # `Video: h264 (High) (avc1 / 0x31637661), yuv420p(tv, bt709, progressive), 640x480 [SAR 1:1 DAR 4:3], 99 kb/s, 25 fps`
    found = re.search(r"Video: (\w+).*?, (\w+)(?:\(([^)]*)\))?, (\d+)x(\d+)(?=[, \[]|$)", line)
    if not found:
        return None
    codec, pixel_format, tags = found[1], found[2], (found[3] or "").split(", ")
    colours = colour.parse(tags, pixel_format)
    turn = re.search(r"rotation of (-?[\d.]+) degrees", block)
    rotation = round(float(turn[1])) % 360 if turn else 0
    size, aspect = (int(found[4]), int(found[5])), re.search(r"SAR (\d+):(\d+)", line)
    shape = (aspect[1], aspect[2]) if aspect else ("1", "1")
    if rotation % 180 == 90:
        size, shape = size[::-1], shape[::-1]
    ticks, base = _packet_ticks(path, audio)
    times = ticks * float(base)
    fps, variable = _rate(line, times, float(base))
    return VideoInfo(
        width=size[0],
        height=size[1],
        fps=fps,
        variable=variable,
        rotation=rotation,
        pixel_format=pixel_format,
        matrix=colours.matrix,
        primaries=colours.primaries,
        transfer=colours.transfer,
        full_range=colours.full_range,
        sample_aspect=":".join(shape),
        codec=codec,
        interlaced="top" if "top first" in tags else "bottom" if "bottom first" in tags else "",
        lead=_lead(float(times[0]), fps) if len(times) else 0.0,
    )


def _lead(start: float, fps: Fraction) -> float:
    # A twentieth of a frame is the rounding of timestamps: it must not count as a whole frame less.
    return start - math.floor(start * fps + 0.05) / float(fps)


def _rate(line: str, times: np.ndarray, tick: float) -> tuple[Fraction, bool]:
    """(frames a second, whether the timestamps vary), from the packets where they have times, else from the header."""
    stated = {unit: float(n) * (1000 if k else 1) for n, k, unit in re.findall(r", ([\d.]+)(k?) (fps|tbr)\b", line)}
    claims = [snap_rate(r, 0.0051 / r) for r in (stated.get("fps", 0), stated.get("tbr", 0)) if 1 <= r <= 240]  # two decimals
    if len(times) < 3:
        return claims[0] if claims else Fraction(25), False
    steps = np.diff(times)
    span = float(times[-1] - times[0])
    mean = len(steps) / span
    # How well the mean is known: rounded timestamps (mkv: milliseconds) blur a short one; a camera's clock shakes anyway.
    even = steps.max() - steps.min() < 1.5 * tick
    blur = max(2 * tick / span, 1e-6) if even else 5e-4
    rate = next((r for r in claims if abs(float(r) / mean - 1) < blur), None) or snap_rate(mean, blur)
    # Timestamps rounded to milliseconds or ticks are still constant: each is within 2 ms of an even grid.
    grid = times[0] + np.arange(len(times)) / float(rate)
    variable = bool(np.abs(times - grid).max() > max(0.002, 0.1 / float(rate)) and steps.max() > 1.5 * steps.min())
    if not variable:
        return rate, False
    nominal = [r for r in claims[::-1] if r <= 120]
    return nominal[0] if nominal else snap_rate(mean), True


def packet_times(path: Path, audio: AudioInfo | None = None) -> np.ndarray:
    """Times in seconds of the first video stream's packets, sorted, from the start of the file: (packets,) f64.

    Presentation times; decoding times where packets come without (mpg, avi): these are as evenly spaced. Empty if
    neither is known.
    """
    ticks, base = _packet_ticks(path, audio)
    return ticks * float(base)


def _packet_ticks(path: Path, audio: AudioInfo | None) -> tuple[np.ndarray, Fraction]:
    """(ticks (packets,) i64, seconds in a tick) of `packet_times`."""
    beside = keep_clock(f"0:a:{audio.index}") if audio else []
    out, _, _ = ffmpeg.run([*ffmpeg.source(path), "-map", "0:V:0", "-c", "copy", "-f", "framecrc", "-", *beside])
    text = out.decode(errors="replace")
    base = re.search(r"#tb 0: (\d+)/(\d+)", text)
    rows = [line.split(",", 3)[1:3] for line in text.splitlines() if line and line[0] != "#" and line.count(",") >= 4]
    decoded, shown = ([int(row[k]) for row in rows if row[k].strip() not in NO_TIME] for k in (0, 1))
    if not base or not rows or len(decoded) < len(rows) > len(shown):
        return np.empty(0, np.int64), Fraction(1)
    ticks = np.unique(np.array(shown if len(shown) == len(rows) else decoded, dtype=np.int64))
    if shown:
        ticks += min(shown) - ticks[0]  # decoding runs ahead of showing
    return ticks, Fraction(int(base[1]), int(base[2]))


def keep_clock(other: str) -> list[str]:
    """Options of a second output that takes the stream `other` (0:V:0, 0:a:0) and drops it.

    In streams made for broadcast (ts, mpg) ffmpeg puts time 0 where the first of the streams *in use* begins: sound and
    picture have one clock only if both are in use, whichever is wanted.
    """
    return ["-map", other, "-c", "copy", "-f", "null", "-"]


def snap_rate(fps: float, tolerance: float = 5e-4) -> Fraction:
    """The standard rate within `tolerance` (a share), else the nearest simple fraction: 29.97 -> 30000/1001."""
    best = min(STANDARD_RATES, key=lambda r: abs(float(r) - fps))
    return best if abs(float(best) - fps) < tolerance * fps else Fraction(fps).limit_denominator(1001)


def read_tags(path: Path) -> dict[str, str]:
    """The file's own metadata (title, comment, ...), without what its container writes by itself."""
    out, _, _ = ffmpeg.run(["-v", "error", *ffmpeg.source(path), "-f", "ffmetadata", "-"])
    text = out.decode(errors="replace").split("\n[", 1)[0]  # streams and chapters follow in sections of their own
    pairs = re.findall(r"^((?:[^=;#\\\n]|\\.)+)=((?:[^\\\n]|\\.)*)", text, flags=re.MULTILINE | re.DOTALL)
    tags = {re.sub(r"\\(.)", r"\1", key, flags=re.DOTALL): re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in pairs}
    return {key: value for key, value in tags.items() if key.lower() not in CONTAINER_TAGS}
