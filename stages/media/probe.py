"""What a media file holds, from ffmpeg's own words and its packet list: no ffprobe needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from stages.errors import InputError
from stages.media import ffmpeg

STANDARD_RATES = (
    *(Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)),
    *(Fraction(n) for n in (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120)),
)

CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}


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


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """The first audio stream."""

    codec: str
    sample_rate: int
    channels: str


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Raises nothing: a file without video or audio has None there."""

    path: Path
    seconds: float | None
    """Duration that the container states."""
    video: VideoInfo | None
    audio: AudioInfo | None


def probe(path: Path) -> MediaInfo:
    """Read the headers and, for video, the packet timestamps (no decoding).

    Raises InputError for a file that is absent, empty, or that ffmpeg cannot open.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: not a file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    _, text, _ = ffmpeg.run(["-i", ffmpeg.arg(path)])
    if "Input #0" not in text:
        hint = " (it ends before its index: recorded or copied incompletely?)" if "moov atom not found" in text else ""
        raise InputError(f"{path}: not a media file that ffmpeg can open{hint}", detail=ffmpeg.tail(text))
    duration = re.search(r"Duration: (\d+):(\d+):([\d.]+)", text)
    seconds = None
    if duration:
        h, m, s = duration.groups()
        seconds = int(h) * 3600 + int(m) * 60 + float(s)
    return MediaInfo(path=path, seconds=seconds, video=_video(path, text), audio=_audio(text))


def _audio(text: str) -> AudioInfo | None:
    found = re.search(r"Stream #0:\d+.*?: Audio: (\w+).*?, (\d+) Hz, ([^,\n]+)", text)
    if not found:
        return None
    return AudioInfo(codec=found[1], sample_rate=int(found[2]), channels=found[3].strip())


def _video(path: Path, text: str) -> VideoInfo | None:
    blocks = re.split(r"(?=\n\s+Stream #0:)", text)
    block = next((b for b in blocks if re.search(r": Video: ", b) and "attached pic" not in b), None)
    size = block and re.search(r"Video: (\w+).*?, (\d{2,5})x(\d{2,5})", block)
    if not block or not size:
        return None
    # `yuv420p(tv, bt709, progressive)` or `yuv420p(tv, bt470bg/unknown/bt709, top first)` or plain `yuv420p`
    pixel = re.search(r"Video: .*?, (\w+)(?:\(([^)]*)\))?(?:, |\s)(?=.*?\d{2,5}x\d{2,5})", block)
    tags = (pixel[2] or "").split(", ") if pixel else []
    colour = next((t.split("/") for t in tags if re.match(r"(bt|smpte|fcc|gbr|film|iec|unknown/)", t)), [])
    matrix, primaries, transfer = ["" if c == "unknown" else c for c in (colour * 3 if len(colour) == 1 else colour)] or [""] * 3
    turn = re.search(r"rotation of (-?[\d.]+) degrees", block)
    rotation = round(float(turn[1])) % 360 if turn else 0
    width, height = int(size[2]), int(size[3])
    if rotation % 180:
        width, height = height, width
    aspect = re.search(r"SAR (\d+:\d+)", block)
    fps, variable = _rate(path, block)
    return VideoInfo(
        width=width,
        height=height,
        fps=fps,
        variable=variable,
        rotation=rotation,
        pixel_format=pixel[1] if pixel else "",
        matrix=matrix,
        primaries=primaries,
        transfer=transfer,
        full_range="pc" in tags,
        sample_aspect=aspect[1] if aspect else "1:1",
        codec=size[1],
    )


def _rate(path: Path, block: str) -> tuple[Fraction, bool]:
    """(frames a second, whether the timestamps vary), from the packets where they have times, else from the header."""
    stated = {unit: float(n) * (1000 if k else 1) for n, k, unit in re.findall(r"([\d.]+)(k?) (fps|tbr)\b", block)}
    header = stated.get("tbr") or stated.get("fps") or 25.0
    times = packet_times(path)
    if len(times) < 3:
        return snap_rate(stated.get("fps") or header), False
    steps = np.diff(times)
    mean = float((len(times) - 1) / (times[-1] - times[0]))
    # Timestamps rounded to milliseconds (mkv) or ticks are still constant: each is within 2 ms of an even grid.
    grid = times[0] + np.arange(len(times)) / float(snap_rate(mean))
    variable = bool(np.abs(times - grid).max() > max(0.002, 0.1 / mean) and steps.max() > 1.5 * steps.min())
    if not variable:
        return snap_rate(mean), False
    nominal = header if header <= 120 else mean
    return snap_rate(nominal), True


def read_tags(path: Path) -> dict[str, str]:
    """The file's own metadata (title, comment, ...), without what its container writes by itself."""
    out, _, _ = ffmpeg.run(["-v", "error", "-i", ffmpeg.arg(path), "-f", "ffmetadata", "-"])
    text = out.decode(errors="replace").split("\n[", 1)[0]  # streams and chapters follow in sections of their own
    pairs = re.findall(r"^((?:[^=;#\\\n]|\\.)+)=((?:[^\\\n]|\\.)*)", text, flags=re.MULTILINE | re.DOTALL)
    tags = {re.sub(r"\\(.)", r"\1", key, flags=re.DOTALL): re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL) for key, value in pairs}
    return {key: value for key, value in tags.items() if key.lower() not in CONTAINER_TAGS}


def packet_times(path: Path) -> np.ndarray:
    """Presentation times in seconds of the first video stream's packets, sorted: (packets,) f64; empty if unknown."""
    out, _, _ = ffmpeg.run(["-i", ffmpeg.arg(path), "-map", "0:V:0", "-c", "copy", "-f", "framecrc", "-"])
    text = out.decode(errors="replace")
    base = re.search(r"#tb 0: (\d+)/(\d+)", text)
    if not base:
        return np.empty(0)
    ticks = [line.split(",")[2].strip() for line in text.splitlines() if line and line[0] != "#" and line.count(",") >= 4]
    if any(t == "NOPTS" for t in ticks):
        return np.empty(0)
    return np.unique(np.array(ticks, dtype=np.int64)) * (int(base[1]) / int(base[2]))


def snap_rate(fps: float) -> Fraction:
    """The standard rate within 0.05 %, else the nearest simple fraction: 29.97 -> 30000/1001."""
    best = min(STANDARD_RATES, key=lambda r: abs(float(r) - fps))
    return best if abs(float(best) - fps) < 5e-4 * fps else Fraction(fps).limit_denominator(1001)
