"""Parts that were encoded one after the other become one video: copied together with sound, never encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from stages.errors import InputError
from stages.media import ffmpeg
from stages.media.video import sound_options


def join(
    parts: Sequence[Path], out: Path, *, fps: Fraction, audio: Path | None = None, metadata: dict[str, str] | None = None
) -> None:
    """Write `out` from videos of one size, codec and rate, each with its own key frames; their order is the film's.

    The sound of `audio` is copied where `out`'s container takes its codec, else encoded to AAC at its own rate and channels.
    Raises InputError when ffmpeg refuses; `out` should be a temporary path (artifacts.write_atomic).
    """
    listed = parts[0].parent / "parts.txt"
    quoted = [str(p.resolve()).replace("'", r"'\''") for p in parts]
    listed.write_text("".join(f"file 'file:{p}'\n" for p in quoted), encoding="utf-8", errors="surrogateescape")
    command = ["-v", "error", "-y", "-protocol_whitelist", "file,pipe", "-f", "concat", "-safe", "0", "-i", ffmpeg.arg(listed)]
    beside: list[str] = []
    if audio:
        sound, beside = sound_options(audio, out)
        command += sound
    # The concatenation counts in microseconds: bring every time back to its frame's own moment.
    grid = f"round(%s*TB*{fps.numerator}/{fps.denominator})*{fps.denominator}/{fps.numerator}/TB"
    command += ["-c:v", "copy", "-bsf:v", f"setts=pts={grid % 'PTS'}:dts={grid % 'DTS'}"]
    for key, value in (metadata or {}).items():
        command += ["-metadata", f"{key}={value}"]
    if out.suffix.lower() in (".mp4", ".m4v", ".mov"):
        command += ["-movflags", "+faststart+use_metadata_tags", "-video_track_timescale", str(timescale(fps))]
    _, text, code = ffmpeg.run([*command, ffmpeg.arg(out), *beside])
    if code:
        raise InputError(f"ffmpeg cannot write {out}: {ffmpeg.last_line(text, code)}", detail=ffmpeg.tail(text))


def timescale(fps: Fraction) -> int:
    """Ticks a second in which every frame's moment is whole, fine enough for players."""
    ticks = fps.numerator
    while ticks < 10_000:
        ticks *= 2
    return ticks
