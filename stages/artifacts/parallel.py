"""One task function, run in this process or in several; each clip is committed by whoever made it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from stages.artifacts.files import remove_tree
from stages.artifacts.store import Store
from stages.artifacts.unit import Draft, Unit, commit, drafts
from stages.errors import DiffTalkError, DiskError

Task = Callable[[Any, Draft, Callable[[float], None]], None]
"""task(payload, draft, tick): build one unit in draft.path, call tick(amount) as work gets done. Importable by name."""


def run_units(store: Store, todo: Sequence[Unit], task: Task, *, title: str, unit: str, size: Callable[[Unit], float]) -> None:
    """Make every unit of `todo` with `task`. A clip that fails, or kills its worker, is recorded; the rest go on.

    `size` is a unit's share of the progress bar.
    """
    workers = min(store.runtime.workers, len(todo))
    if not todo or store.runtime.dry_run:
        return
    with store.runtime.reporter.progress(title, sum(size(u) for u in todo), unit) as bar:
        if workers > 1:
            _run_pool(store, list(todo), task, workers, lambda u: bar.advance(size(u)))
            return
        for item in todo:
            ticked = 0.0

            def tick(amount: float) -> None:
                nonlocal ticked
                ticked += amount
                bar.advance(amount)

            bar.note(item.source or item.id)
            with store.draft(item) as draft:
                task(item.payload, draft, tick)
            bar.advance(size(item) - ticked)


def _run_pool(store: Store, todo: list[Unit], task: Task, workers: int, finished: Callable[[Unit], None]) -> None:
    while todo:
        unknown = _run_once(store, todo, task, workers, finished)
        # A worker was killed, and with it the pool. It was at one of the units that were begun: each of those alone,
        # to know which. (None begun: it died on starting, and the first tells why.)
        begun = [u for u in unknown if drafts(store.temp, u.id)] or unknown[:1]
        for unit in begun:
            for left in drafts(store.temp, unit.id):
                remove_tree(left)
            for survivor in _run_once(store, [unit], task, 1, finished):
                error = DiffTalkError("its worker process was killed (out of memory?); try again with fewer --workers")
                store.fail(survivor, error)
                finished(survivor)
        alone = {u.id for u in begun}
        todo = [u for u in unknown if u.id not in alone]


def _run_once(store: Store, todo: list[Unit], task: Task, workers: int, finished: Callable[[Unit], None]) -> list[Unit]:
    """Run `todo` in a pool; returns the units whose fate is unknown because the pool broke."""
    context = multiprocessing.get_context("spawn")  # fork and threads (torch, dlib) do not go together
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))
    unknown: list[Unit] = []
    try:
        jobs: dict[Future[None], Unit] = {
            pool.submit(_work, task, u.payload, store.units / u.id, store.temp, u.id, store.key(u)): u for u in todo
        }
        for job in as_completed(jobs):
            unit = jobs[job]
            try:
                job.result()
            except BrokenProcessPool:
                unknown.append(unit)
                continue
            except DiskError:
                raise
            except Exception as error:
                store.fail(unit, error)
            else:
                store.succeed(unit)
            finished(unit)
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return unknown


def _work(task: Task, payload: Any, final: Any, temp: Any, id: str, key: dict[str, Any]) -> None:
    try:
        with commit(final, temp, id, key) as draft:
            task(payload, draft, lambda amount: None)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an exception that cannot travel would break the pool for everybody
            raise DiffTalkError(f"{type(error).__name__}: {error}") from error
        raise


def _start_worker(parent: int) -> None:
    """Ctrl-C is the parent's to handle; a parent that is killed takes its workers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
