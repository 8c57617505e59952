"""The one place that renames and removes files: everything that appears under its final name is whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import DiskError

NO_ROOM = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again, what is done is kept",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again, what is done is kept",
    errno.EFBIG: "the file would be larger than the limit set for this user (ulimit -f) or file system",
    errno.EROFS: "the file system is read-only; choose another output with -o or --out",
}
"""Told whatever file was being written."""

NO_PLACE = {
    errno.EACCES: "permission denied; choose another output with -o or --out",
    errno.EPERM: "permission denied; choose another output with -o or --out",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another output with -o or --out",
    errno.EEXIST: "a file of this name is in the way; choose another output with -o or --out",
    errno.EISDIR: "a folder of this name is in the way; choose another output with -o or --out",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose another output with -o or --out",
}
"""Told only when the refused path is the output: an input without read permission is another matter."""


@contextmanager
def write_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, with the same suffix; it takes `path`'s name when the block ends well.

    Raises DiskError (an ArtifactError) before the block when `path` cannot be written there, and after it when the disk
    is full. Nothing half-written is left; what a killed run left behind is removed by the next one.
    """
    make_folder(path.parent)
    _refuse_what_is_no_file(path)
    _sweep_parts(path)
    part = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        with explain_os_errors(path, part), part.open("xb") as held:
            with suppress(OSError):  # a file system without locks: leftovers stay there
                fcntl.flock(held, fcntl.LOCK_EX)
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def refuse_bad_place(path: Path) -> None:
    """Raise now the DiskError with which `write_atomic(path)` would end long work; nothing is created."""
    nearest = next(p for p in path.absolute().parents if p.exists())
    with explain_os_errors(path):
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "", str(nearest))
        _refuse_what_is_no_file(path)
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "", str(nearest))


def _refuse_what_is_no_file(path: Path) -> None:
    with explain_os_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "", str(path))
        if path.exists() and not path.is_file():  # /dev/null, a pipe: a rename would replace it
            raise DiskError(f"cannot write {path}: not an ordinary file; choose another output with -o or --out")


def _sweep_parts(path: Path) -> None:
    """Remove what killed runs left of `path`. A part that somebody is still writing is locked, and stays."""
    name = re.compile(rf"\.{re.escape(path.stem[:40])}\.[0-9a-f]{{8}}\.part{re.escape(path.suffix)}")
    for old in path.parent.iterdir():
        if name.fullmatch(old.name):
            with suppress(OSError), old.open("rb") as f:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                old.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all; a file that says so already is left alone."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all; a file that says so already is left alone."""
    data = encode(text)
    with suppress(OSError):
        if path.read_bytes() == data:
            return
    with write_atomic(path) as part, part.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def encode(text: str) -> bytes:
    """UTF-8. A file name that is not Unicode (a lone surrogate in Python) becomes the JSON escape of the same meaning."""
    return text.encode("utf-8", "backslashreplace")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None when it is absent, torn or something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append `record` to a JSONL file. A line that a killed run left torn is ended first, so that it spoils no other."""
    with explain_os_errors(path), path.open("ab+") as f:
        if f.tell() and (f.seek(-1, os.SEEK_END), f.read(1))[1] != b"\n":
            f.write(b"\n")
        f.write(encode(json.dumps(record, ensure_ascii=False) + "\n"))


def new_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy file to fill in place, of zeros. Its room on the disk is taken at once.

    Without that, a disk that fills up kills the process (SIGBUS) at the first write beyond its end. Raises DiskError.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    with explain_os_errors(path), path.open("r+b") as f:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(f.fileno(), 0, path.stat().st_size)
    return array


def replace_tree(built: Path, final: Path, trash: Path) -> None:
    """Move the folder `built` to `final` by one rename; what stood there goes through `trash`.

    Of two that do so at once the later one stays (a worker taken for dead, and the one that does its work again).
    """
    with explain_os_errors(final, built, trash):
        make_folder(final.parent)
        while True:
            if final.exists() or final.is_symlink():
                make_folder(trash)
                with suppress(FileNotFoundError):  # the other one has just moved it away
                    os.replace(final, trash / uuid.uuid4().hex[:8])
            try:
                os.replace(built, final)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not final.is_dir():
                    raise
    remove_tree(trash)


def remove_tree(path: Path) -> None:
    """Remove a folder that may be absent."""
    shutil.rmtree(path, ignore_errors=True)


def move_and_remove(path: Path, gone: str) -> None:
    """Remove a folder that somebody may still be building in: moved to the name `gone` beside it first, in one step.

    What is built there is then committed whole before, or not at all; never while its files are being removed.
    """
    moved = path.with_name(gone)
    with suppress(OSError):
        os.replace(path, moved)
        path = moved
    remove_tree(path)


def make_folder(path: Path) -> None:
    """mkdir -p, with an error that says what to do."""
    with explain_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def explain_os_errors(path: Path, *also: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write `path` (by way of `also`) into a DiskError that says what to do.

    Other errors in the block, such as an input that may not be read, pass through.
    """
    try:
        yield
    except OSError as error:
        if reason := _reason(error, (path, *also)):
            raise DiskError(f"cannot write {path}: {reason}") from error
        raise


def _reason(error: OSError, places: tuple[Path, ...]) -> str:
    if error.errno in NO_ROOM:
        return NO_ROOM[error.errno]
    if error.errno is None and "requested and" in str(error):  # numpy's short write carries no errno
        return NO_ROOM[errno.ENOSPC]
    refused = [Path(os.path.abspath(os.fsdecode(n))) for n in (error.filename, error.filename2) if isinstance(n, (str, bytes))]
    ours = [Path(os.path.abspath(p)) for p in places]
    if any(r == p or r in p.parents or p in r.parents for r in refused for p in ours):
        return NO_PLACE.get(error.errno or 0, "")
    return ""
