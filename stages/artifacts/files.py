"""The one place that renames and removes files: everything that appears under its final name is whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import ArtifactError


@contextmanager
def write_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, with the same suffix; it takes `path`'s name when the block ends well.

    Raises ArtifactError when the folder cannot be written or the disk is full; nothing half-written is left.
    """
    make_folder(path.parent)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        with explain_os_errors(path):
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    with write_atomic(path) as part, part.open("w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, sort_keys=True, ensure_ascii=False)
        f.write("\n")
        f.flush()
        os.fsync(f.fileno())


def replace_tree(built: Path, final: Path, trash: Path) -> None:
    """Move the folder `built` to `final` by one rename; what stood there goes through `trash`."""
    with explain_os_errors(final):
        make_folder(final.parent)
        if final.exists():
            make_folder(trash)
            os.replace(final, trash / f"{final.name}-{uuid.uuid4().hex[:8]}")
        os.replace(built, final)
    remove_tree(trash)


def remove_tree(path: Path) -> None:
    """Remove a folder that may be absent."""
    shutil.rmtree(path, ignore_errors=True)


def make_folder(path: Path) -> None:
    """mkdir -p, with an error that says what to do."""
    with explain_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into errors that say what to do."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space and run the same command again, what is done is kept",
            errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
            errno.EACCES: "permission denied; choose another output with -o or --out",
            errno.EPERM: "permission denied; choose another output with -o or --out",
            errno.EROFS: "the file system is read-only; choose another output with -o or --out",
            errno.ENOTDIR: "a part of this path is a file, not a folder; choose another output with -o or --out",
            errno.EEXIST: "a file of this name is in the way; choose another output with -o or --out",
            errno.EISDIR: "a folder of this name is in the way; choose another output with -o or --out",
            errno.ENAMETOOLONG: "the name is too long for this file system; rename the source",
        }
        if error.errno not in reasons:
            raise
        raise ArtifactError(f"cannot write {path}: {reasons[error.errno]}") from error
