from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.artifacts import Call, DigestCache, Draft, Store, commit, read_artifact, run_units
from stages.artifacts.parallel import largest_first, make_unit, stamp
from stages.artifacts.unit import damage, read_record
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


def test_work_whose_answer_was_lost_is_not_done_again(tmp_path: Path) -> None:
    made: list[str] = []

    def count(payload: str, draft: Draft, tick: Callable[[float], None]) -> None:
        made.append(payload)
        (draft.path / "a.txt").write_text(payload)

    final, key = tmp_path / "clips" / "a", {"config": 1}
    arguments = (count, "text", final, tmp_path / ".tmp", "a", key)
    make_unit(*arguments, stamp(final), lambda amount: None)
    make_unit(*arguments, None, lambda amount: None)  # begun when nothing was there
    assert made == ["text"]
    make_unit(*arguments, stamp(final), lambda amount: None)  # forced: it was there when the run began
    make_unit(*arguments[:5], {"config": 2}, None, lambda amount: None)
    assert len(made) == 3


def test_two_that_make_the_same_clip_at_once_leave_one_whole(tmp_path: Path) -> None:
    """A worker that was taken for dead, and the one that does its work again."""

    def build(text: str) -> None:
        for _ in range(40):
            with commit(tmp_path / "clips" / "a", tmp_path / ".tmp", "a", {"config": 1}) as draft:
                (draft.path / "a.txt").write_text(text)

    threads = [threading.Thread(target=build, args=(text,)) for text in ("one", "two")]
    [t.start() for t in threads]
    [t.join() for t in threads]
    record = read_record(tmp_path / "clips" / "a")
    assert record and damage(tmp_path / "clips" / "a", record, DigestCache(tmp_path / "none")) == ""
    assert not list((tmp_path / ".tmp").iterdir())


def test_the_longest_are_begun_first() -> None:
    calls = [Call(id, print, (), size) for id, size in (("a", 1.0), ("b", 3.0), ("c", 3.0), ("d", 2.0))]
    assert [c.id for c in largest_first(calls)] == ["b", "c", "d", "a"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z" if os.path.isdir("/proc") else not os.kill(pid, 0)
    except OSError:
        return False
