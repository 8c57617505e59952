"""One writer at a time. The lock is the kernel's (flock): it goes with the process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stages.artifacts.files import explain_os_errors, make_folder
from stages.errors import ArtifactError, BusyError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What network file systems answer that are mounted without locks."""
GRACE_SECONDS = 5.0
"""How long the lock of a process that is gone is waited for: a child that it was just starting holds it until it runs."""


@contextmanager
def lock(
    root: Path, shard: tuple[int, int] | None = None, warn: Callable[[str], None] | None = None, wait: bool = False
) -> Iterator[None]:
    """Hold the writer's lock of the artifact at `root`. Shards share it, and each holds one of its own.

    Raises BusyError when another process holds it, or with `wait` tells `warn` so and waits. A file system without locks is
    told to `warn`; the run goes on.
    """
    make_folder(root)
    with ExitStack() as stack:
        wanted = [(root / ".lock", fcntl.LOCK_EX)]
        if shard is not None:
            wanted = [(root / ".lock", fcntl.LOCK_SH), (root / f".lock-{shard[0]}-of-{shard[1]}", fcntl.LOCK_EX)]
        try:
            for path, mode in wanted:
                try:
                    _take(stack, path, mode)
                except ArtifactError as held:
                    if not wait:
                        raise
                    if warn:
                        warn(f"{str(held).split(';')[0]}; waiting for it to end")
                    _take(stack, path, mode, wait=True)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            if warn:
                warn(f"{root} lies on a file system without locks: take care that no other run writes there")
        yield


def _take(stack: ExitStack, path: Path, mode: int, wait: bool = False) -> None:
    with explain_os_errors(path):
        file = stack.enter_context(path.open("a+"))
    deadline = time.monotonic() + GRACE_SECONDS
    while True:
        try:
            fcntl.flock(file, mode | (0 if wait else fcntl.LOCK_NB))
            break
        except BlockingIOError:
            holder = _holder(path.parent)
            if not _is_gone(holder) or time.monotonic() > deadline:
                raise BusyError(f"{path.parent} is being written by {holder}; wait for it to end, or choose another --out") from None
            time.sleep(0.02)
    # Said aloud, not left to close(): a forked child that lives on would keep the lock.
    stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
    if mode == fcntl.LOCK_EX:
        file.truncate(0)
        file.write(_name(os.getpid()))
        file.flush()


def _name(pid: int) -> str:
    return f"process {pid} on {socket.gethostname()}"


def _is_gone(holder: str) -> bool:
    """Whether `holder`, as a lock file names it, is a process of this machine that has ended."""
    words = holder.split()
    pid = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
    return pid > 0 and holder == _name(pid) and not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether a process of that number runs on this machine, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _holder(root: Path) -> str:
    """Who writes there. A lock file that nobody holds exclusively tells of an earlier run."""
    for path in sorted(root.glob(".lock*")):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if name := file.read().strip():
                    return name
    return "another process"
