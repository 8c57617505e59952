"""Finding and running ffmpeg. Nothing else in the project starts it, and ffprobe is never needed."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stages.errors import InputError, UsageError

OLDEST = (7, 0)
"""The oldest version that the tests were run with."""


@functools.cache
def ffmpeg_binary() -> str:
    """Path of ffmpeg: $DIFFTALK_FFMPEG, else the one on PATH if it can do the work, else the one that imageio-ffmpeg ships.

    Raises UsageError when none of them runs.
    """
    named = os.environ.get("DIFFTALK_FFMPEG")
    if named:
        if problem := _unfit(named):
            raise UsageError(f"DIFFTALK_FFMPEG={named}: {problem}; unset it to use the one that comes with the installation")
        return named
    found = shutil.which("ffmpeg")
    if found and not _unfit(found):
        return found
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise UsageError("no ffmpeg for this platform comes with the installation: install ffmpeg (7.0 or newer, with libx264)") from None


def _unfit(binary: str) -> str:
    """Why this ffmpeg cannot be used, or an empty text."""
    try:
        done = subprocess.run([binary, "-encoders"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be run ({error})"
    version = re.search(r"ffmpeg version n?(\d+)\.(\d+)", done.stderr.decode(errors="replace"))  # builds from git have none
    if version and (int(version[1]), int(version[2])) < OLDEST:
        return f"is version {version[1]}.{version[2]}, needed is {OLDEST[0]}.{OLDEST[1]}"
    missing = [name for name in ("libx264", "libx264rgb", "aac") if not re.search(rf"^ V?A?\S+ {name} ".encode(), done.stdout, re.M)]
    return f"lacks the encoders {', '.join(missing)}" if missing else ""


@functools.cache
def has_filter(name: str) -> bool:
    """Whether our ffmpeg was built with this filter."""
    listed, _, _ = run(["-filters"])
    return re.search(rf"^ \S+ {name} ".encode(), listed, re.M) is not None


def arg(path: Path) -> str:
    """A path as ffmpeg argument: never taken for an option or a protocol (`a:b.mp4`, `-x.mp4`, `data:...`)."""
    return f"file:{path}"


def source(path: Path) -> list[str]:
    """Options that open `path` as an input. A playlist dressed up as a video must not make us fetch from the network."""
    return ["-protocol_whitelist", "file,pipe", "-i", arg(path)]


def run(args: Sequence[str], *, check: Path | None = None) -> tuple[bytes, str, int]:
    """Run ffmpeg to its end: (stdout, stderr, return code). With `check`, a failure raises InputError about that file."""
    done = subprocess.run(
        [ffmpeg_binary(), "-hide_banner", "-nostdin", *args], stdin=subprocess.DEVNULL, capture_output=True
    )
    text = done.stderr.decode(errors="replace")
    if check is not None and done.returncode:
        raise InputError(f"ffmpeg failed on {check}: {last_line(text, done.returncode)}", detail=tail(text))
    return done.stdout, text, done.returncode


@contextmanager
def pipe(args: Sequence[str], *, stdin: bool = False, stdout: bool = False) -> Iterator[tuple[subprocess.Popen, IO]]:
    """Run ffmpeg beside us. Yields (process, stderr file). The process is dead when the block ends, however it ends."""
    with tempfile.TemporaryFile() as errors:  # a file, not a pipe: a talkative ffmpeg must never block
        process = subprocess.Popen(
            [ffmpeg_binary(), "-hide_banner", "-nostdin" if not stdin else "-y", *args],
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is ours to handle: ffmpeg must not die before it is told to
        )
        try:
            yield process, errors
        finally:
            if process.poll() is None:
                process.kill()  # before its input ends: it must not finish a file that nobody wants
            for stream in (process.stdin, process.stdout):
                if stream and not stream.closed:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        pass  # it had already gone; its return code says why
            process.wait()


def read_errors(file: IO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def tail(text: str, lines: int = 8) -> str:
    """The last lines of what ffmpeg said."""
    return "\n".join(text.strip().splitlines()[-lines:])


def last_line(text: str, code: int = 0) -> str:
    """The last thing that ffmpeg said; a signal that ended it (a crash, no memory) leaves it no time to say anything."""
    if code < 0:
        return f"ffmpeg was stopped by {signal.Signals(-code).name}"
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
