"""One writer at a time. The lock is the kernel's (flock): it goes with the process, however that ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stages.artifacts.files import explain_os_errors, make_folder
from stages.errors import ArtifactError


@contextmanager
def lock(root: Path, shard: tuple[int, int] | None = None) -> Iterator[None]:
    """Hold the writer's lock of the artifact at `root`. Shards share it, and each holds one of its own.

    Raises ArtifactError when another process holds it.
    """
    make_folder(root)
    with ExitStack() as stack:
        if shard is None:
            _take(stack, root / ".lock", fcntl.LOCK_EX)
        else:
            _take(stack, root / ".lock", fcntl.LOCK_SH)
            _take(stack, root / f".lock-{shard[0]}-of-{shard[1]}", fcntl.LOCK_EX)
        yield


def _take(stack: ExitStack, path: Path, mode: int) -> None:
    with explain_os_errors(path):
        file = stack.enter_context(path.open("a+"))
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise ArtifactError(
            f"{path.parent} is being written by {holder}; wait for it to end, or choose another --out"
        ) from None
    if mode == fcntl.LOCK_EX:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
