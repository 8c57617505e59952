"""Finding and running ffmpeg. Nothing else in the project starts it, and ffprobe is never needed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stages.errors import InputError


@functools.cache
def ffmpeg_binary() -> str:
    """Path of ffmpeg: $DIFFTALK_FFMPEG, else the one on PATH, else the one that imageio-ffmpeg ships."""
    named = os.environ.get("DIFFTALK_FFMPEG")
    if named:
        return named
    found = shutil.which("ffmpeg")
    if found:
        return found
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def arg(path: Path) -> str:
    """A path as ffmpeg argument: never taken for an option or a protocol (`a:b.mp4`, `-x.mp4`, `data:...`)."""
    return f"file:{path}"


def run(args: Sequence[str], *, check: Path | None = None) -> tuple[bytes, str, int]:
    """Run ffmpeg to its end: (stdout, stderr, return code). With `check`, a failure raises InputError about that file."""
    done = subprocess.run(
        [ffmpeg_binary(), "-hide_banner", "-nostdin", *args], stdin=subprocess.DEVNULL, capture_output=True
    )
    text = done.stderr.decode(errors="replace")
    if check is not None and done.returncode:
        raise InputError(f"ffmpeg failed on {check}: {last_line(text)}", detail=tail(text))
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
            for stream in (process.stdin, process.stdout):
                if stream and not stream.closed:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        pass  # it had already gone; its return code says why
            if process.poll() is None:
                process.kill()
            process.wait()


def read_errors(file: IO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def tail(text: str, lines: int = 8) -> str:
    """The last lines of what ffmpeg said."""
    return "\n".join(text.strip().splitlines()[-lines:])


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
