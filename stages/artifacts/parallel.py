"""One task function, run in this process, in several, or on a Ray cluster; each clip is committed by whoever made it.

    run_units   units of a Store: the task builds one in a draft
    run_calls   anything else that is done piece by piece: functions that can be imported by name, and done again without harm
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts.fingerprint import digest_json
from stages.artifacts.store import Store
from stages.artifacts.unit import Draft, Unit, commit, read_record
from stages.errors import DiffTalkError, DiskError
from stages.runtime import Needs, Progress, Runtime

Tick = Callable[[float], None]
Task = Callable[[Any, Draft, Tick], None]
"""task(payload, draft, tick): build one unit in draft.path, call tick(amount) as work gets done. Importable by name."""

KILLED = "its worker process was killed (out of memory?); try again with fewer --workers"


@dataclass(frozen=True)
class Call:
    """One piece of work: function(*arguments, tick). It may be begun twice, when whoever does it is killed."""

    id: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    size: float = 1.0
    """Its share of the progress bar; the largest are begun first."""
    name: str = ""
    """What to call it in messages."""


Ended = Iterator[tuple[Call, Any]]
"""Each call with what it returned, or with the exception that it ended with."""


def run_units(
    store: Store, todo: Sequence[Unit], task: Task, *, title: str, unit: str, size: Callable[[Unit], float], needs: Needs | None = None
) -> None:
    """Make every unit of `todo` with `task`. A clip that fails, or kills its worker, is recorded; the rest go on.

    `size` is a unit's share of the progress bar; `needs` is what a worker takes from a cluster.
    """
    if not todo or store.runtime.dry_run:
        return
    units = {u.id: u for u in todo}
    calls = []
    for u in todo:
        final = store.units / u.id
        arguments = (task, u.payload, final, store.temp, u.id, store.key(u), stamp(final))
        calls.append(Call(u.id, make_unit, arguments, size(u), u.source or u.id))
    with (
        store.runtime.reporter.progress(title, sum(c.size for c in calls), unit) as bar,
        closing(run_calls(calls, store.runtime, needs or Needs(), bar, store.temp)) as ended,
    ):
        for call, outcome in ended:
            if isinstance(outcome, Exception):
                store.fail(units[call.id], outcome)
            else:
                store.succeed(units[call.id])


def stamp(final: Path) -> list[int] | None:
    """Which commit of a unit lies there; None where none does. Every commit writes a new clip.json."""
    try:
        stat = (final / "clip.json").stat()
    except OSError:
        return None
    return [stat.st_ino, stat.st_mtime_ns]


def make_unit(
    task: Task, payload: Any, final: Path, temp: Path, id: str, key: dict[str, Any], before: list[int] | None, tick: Tick
) -> None:
    """Build and commit one unit, unless a worker whose answer was lost has done so since the run began (`before`)."""
    if stamp(final) != before and (record := read_record(final)) and record["fingerprint"] == digest_json(key):
        return
    with commit(final, temp, id, key) as draft:
        task(payload, draft, tick)


def run_calls(calls: Sequence[Call], runtime: Runtime, needs: Needs, bar: Progress, place: Path) -> Ended:
    """Do every call, where `runtime` says; they end in any order. `place` is a folder that every worker must see.

    Raises DiskError when a call ends with one (a full disk is no clip's fault), and what the cluster itself refuses.
    """
    if runtime.ray is not None:
        from stages.artifacts.cluster import on_ray

        doing = on_ray(calls, runtime, needs, bar, place)
    elif min(runtime.workers, len(calls)) > 1:
        doing = _in_pool(largest_first(calls), min(runtime.workers, len(calls)), bar)
    else:
        doing = _here(calls, bar)
    with closing(doing):
        for call, outcome in doing:
            if isinstance(outcome, DiskError):
                raise outcome
            yield call, outcome


def largest_first(calls: Sequence[Call]) -> list[Call]:
    """In this order no long call is left to the end, with one worker busy and the others idle."""
    return sorted(calls, key=lambda call: -call.size)


def attempt(function: Callable[..., Any], arguments: tuple[Any, ...], tick: Tick) -> Any:
    """What a call returned, or its exception."""
    try:
        return function(*arguments, tick)
    except Exception as error:
        return error


def answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The same in a worker: an exception that cannot travel would break the pool for everybody."""
    outcome = attempt(function, arguments, lambda amount: None)
    if isinstance(outcome, Exception):
        try:
            pickle.loads(pickle.dumps(outcome))
        except Exception:
            return DiffTalkError(f"{type(outcome).__name__}: {outcome}")
    return outcome


def _here(calls: Sequence[Call], bar: Progress) -> Ended:
    for call in calls:
        ticked = 0.0

        def tick(amount: float) -> None:
            nonlocal ticked
            ticked += amount
            bar.advance(amount)

        bar.note(call.name)
        outcome = attempt(call.function, call.arguments, tick)
        bar.advance(call.size - ticked)
        yield call, outcome


# -- several processes


def _in_pool(todo: list[Call], workers: int, bar: Progress) -> Ended:
    with tempfile.TemporaryDirectory(prefix="difftalk-") as folder:
        while todo:
            unknown = yield from _once(todo, workers, bar, Path(folder))
            # A worker was killed, and with it the pool. It was at one of the calls that were begun: each of those alone,
            # to know which. (None begun: it died on starting, and the first tells why.)
            begun = [c for c in unknown if _mark(Path(folder), c).exists()] or unknown[:1]
            for call in begun:
                for survivor in (yield from _once([call], 1, bar, Path(folder))):
                    bar.advance(survivor.size)
                    yield survivor, DiffTalkError(KILLED)
            alone = {c.id for c in begun}
            todo = [c for c in unknown if c.id not in alone]


def _once(todo: list[Call], workers: int, bar: Progress, folder: Path) -> Any:
    """Yield what `todo` gives in a pool; returns the calls whose fate is unknown because the pool broke."""
    context = multiprocessing.get_context("spawn")  # fork and threads (torch, dlib) do not go together
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(), workers))
    unknown: list[Call] = []
    try:
        jobs: dict[Future[Any], Call] = {pool.submit(_marked, _mark(folder, c), c.function, c.arguments): c for c in todo}
        for job in as_completed(jobs):
            call = jobs[job]
            try:
                outcome = job.result()
            except BrokenProcessPool:
                unknown.append(call)
                continue
            except Exception as error:  # what cannot be sent there
                outcome = error
            bar.advance(call.size)
            yield call, outcome
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return unknown


def _mark(folder: Path, call: Call) -> Path:
    """A file that is there while a worker is at `call`."""
    return folder / digest_json(call.id)


def _marked(mark: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    mark.touch()
    outcome = answer(function, arguments)
    mark.unlink(missing_ok=True)
    return outcome


def _start_worker(parent: int, workers: int) -> None:
    """Ctrl-C is the parent's to handle; a parent that is killed takes its workers along. The workers share the processors."""
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", str(max(1, (os.cpu_count() or 1) // workers)))  # before anything imports it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
