from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.artifacts import Store, read_artifact, run_units
from stages.errors import DiskError
from stages.runtime import Progress, Report, Runtime
from tests.artifacts.small import Config, Lines, leftovers, tree, units
from tests.artifacts.tasks import task


class Counted(Lines):
    """Adds up what the bar is told."""

    def __init__(self) -> None:
        super().__init__()
        self.amount = 0.0

    @contextmanager
    def progress(self, title: str, total: float | None, unit: str = "") -> Iterator[Progress]:
        yield self  # type: ignore[misc]

    def advance(self, n: float = 1) -> None:
        self.amount += n

    def note(self, text: str) -> None:
        pass


def work(root: Path, texts: dict[str, str], workers: int) -> tuple[Report, Counted]:
    lines = Counted()
    runtime = Runtime(workers=workers, reporter=lines)
    with Store(root, kind="clips", stage="small", code=1, config=Config(), runtime=runtime) as store:
        run_units(store, store.plan(units(texts)), task, title="work", unit="clips", size=lambda u: 2.0)
        return store.seal(), lines


def test_workers_make_the_same_artifact_as_one_process(tmp_path: Path) -> None:
    texts = {"a": "alpha", "b": "bad", "c": "gamma", "d": "odd"}
    alone, bar = work(tmp_path / "alone", texts, 1)
    together, bars = work(tmp_path / "together", texts, 2)
    assert alone.failed == {"b": "no face", "d": "two figures"}
    assert together.failed == {"b": "no face", "d": "Untravelled: two figures"}
    assert (together.done, together.exit_code, bar.amount, bars.amount) == (2, 4, 8.0, 8.0)
    names = ("artifact.json", "clips/a/clip.json", "clips/a/array.npy", "clips/c/clip.json")
    first, second = tree(tmp_path / "alone"), tree(tmp_path / "together")
    assert all(first[n] == second[n] for n in names) and not leftovers(tmp_path)


def test_a_worker_that_is_killed_fails_its_own_unit_only(tmp_path: Path) -> None:
    texts = {f"u{i}": "text" for i in range(6)} | {"u1": "die"}
    report, bar = work(tmp_path, texts, 2)
    assert list(report.failed) == ["u1"] and "out of memory?" in report.failed["u1"]
    assert report.done == 5 and len(read_artifact(tmp_path, "clips").clips) == 5 and bar.amount == 12.0
    assert not leftovers(tmp_path)


def test_a_full_disk_in_a_worker_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="disk is full"):
        work(tmp_path, {"a": "full", "b": "text"}, 2)
    assert not (tmp_path / "artifact.json").exists() and not leftovers(tmp_path)


def test_a_killed_run_takes_its_workers_along(tmp_path: Path) -> None:
    marks = [tmp_path / "one", tmp_path / "two"]
    code = (
        "import sys, pathlib; from tests.artifacts.test_parallel import work\n"
        "if __name__ == '__main__':\n"
        "    work(pathlib.Path(sys.argv[1]), {'a': 'hang|' + sys.argv[2], 'b': 'hang|' + sys.argv[3]}, 2)"
    )
    main = subprocess.Popen([sys.executable, "-c", code, tmp_path / "out", *marks])
    for _ in range(600):
        if all(m.exists() and m.read_text() for m in marks):
            break
        time.sleep(0.05)
    workers = [int(m.read_text()) for m in marks]
    main.send_signal(signal.SIGKILL)
    main.wait()
    for _ in range(100):
        if not any(alive(pid) for pid in workers):
            break
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)
    report, _ = work(tmp_path / "out", {"a": "alpha", "b": "beta"}, 1)
    assert report.done == 2 and not leftovers(tmp_path / "out")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z" if os.path.isdir("/proc") else not os.kill(pid, 0)
    except OSError:
        return False
