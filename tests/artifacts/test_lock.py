from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts import lock
from stages.errors import ArtifactError

HOLD = (
    "import sys, time, pathlib; from stages.artifacts import lock\n"
    "shard = tuple(map(int, sys.argv[2].split('/'))) if len(sys.argv) > 2 else None\n"
    "with lock(pathlib.Path(sys.argv[1]), shard):\n"
    "    print('held', flush=True); time.sleep(60)"
)


class Holder:
    """Another process that holds the lock."""

    def __init__(self, root: Path, *shard: str):
        self.process = subprocess.Popen([sys.executable, "-c", HOLD, root, *shard], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout and self.process.stdout.readline() == "held\n"

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    with Holder(tmp_path) as other, pytest.raises(ArtifactError, match=rf"written by process {other.pid} on .*; wait"), lock(tmp_path):
        pytest.fail("two writers")


def test_what_is_shared_is_waited_for(tmp_path: Path) -> None:
    told: list[str] = []
    with Holder(tmp_path) as other:
        threading.Timer(0.3, other.kill).start()
        with lock(tmp_path, warn=told.append, wait=True):
            assert other.wait(10) and f"written by process {other.pid}" in told[0] and "waiting" in told[0]


def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    with Holder(tmp_path):
        pass
    with lock(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_the_lock_of_a_killed_process_is_waited_for_while_its_newborn_child_still_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between fork and exec a child holds all that its parent held, and a kill does not stop it there."""
    orphan = (
        "import fcntl, os, sys, time\n"
        "file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "child = os.fork()\n"
        "if child:\n    file.write(f'process {os.getpid()} on {os.uname().nodename}'); file.flush(); os._exit(0)\n"
        "time.sleep(float(sys.argv[2]))"
    )

    def leave(seconds: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-c", orphan, str(tmp_path / ".lock"), seconds], check=True)

    leave("0.4")
    with lock(tmp_path):
        pass
    monkeypatch.setattr(sys.modules["stages.artifacts.lock"], "GRACE_SECONDS", 0.1)
    leave("1.5")
    with pytest.raises(ArtifactError, match="is being written by process"), lock(tmp_path):
        pytest.fail("two writers")


def test_shards_write_together_but_each_alone(tmp_path: Path) -> None:
    with Holder(tmp_path, "0/2") as other:
        with lock(tmp_path, (1, 2)):
            pass
        for shard in (None, (0, 2)):
            with pytest.raises(ArtifactError, match=f"process {other.pid}"), lock(tmp_path, shard):
                pytest.fail("two writers")
    with lock(tmp_path):
        pass


def test_a_dead_writer_is_not_named_when_a_shard_writes(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 99999999 on elsewhere")
    with Holder(tmp_path, "0/1") as other, pytest.raises(ArtifactError, match=f"process {other.pid}"), lock(tmp_path):
        pytest.fail("two writers")


def test_a_shard_waits_for_the_whole(tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(ArtifactError, match=f"process {os.getpid()}"), lock(tmp_path, (0, 2)):
        pytest.fail("two writers")


def test_two_threads_are_two_writers(tmp_path: Path) -> None:
    told: list[BaseException] = []

    def second() -> None:
        try:
            with lock(tmp_path):
                pass
        except ArtifactError as error:
            told.append(error)

    with lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(told) == 1


def test_a_forked_child_that_lives_on_does_not_keep_the_lock(tmp_path: Path) -> None:
    with lock(tmp_path):
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
    try:
        with lock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_file_system_without_locks_is_told_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    warned: list[str] = []
    with lock(tmp_path, warn=warned.append):
        pass
    assert len(warned) == 1 and "without locks" in warned[0]
