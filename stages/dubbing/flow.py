"""Reading ahead and writing behind in threads of their own, so that decoding, sampling and encoding overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
END = object()


def ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """The items, made up to `size` ahead in a thread. An error there is raised here; leaving the loop stops the thread."""
    waiting: queue.Queue[Any] = queue.Queue(size)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        source = iter(items)
        try:
            for item in source:
                if not put((item, None)):
                    break
            else:
                put((END, None))
        except BaseException as error:
            put((END, error))
        finally:
            if close := getattr(source, "close", None):
                close()  # a generator ends its ffmpeg in the thread that runs it

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error:
                raise error
            if item is END:
                return
            yield item
    finally:
        stop.set()
        thread.join()


@contextmanager
def behind(work: Callable[[T], None], size: int) -> Iterator[Callable[[T], None]]:
    """Yields `put`: items are worked on in order in a thread, at most `size` waiting. The block ends when all are done.

    What `work` raises is raised by the next `put`, or at the end of the block; when the block fails, the rest is dropped.
    """
    waiting: queue.Queue[Any] = queue.Queue(size)
    failed: list[BaseException] = []
    dropped = threading.Event()

    def run() -> None:
        while (item := waiting.get()) is not END:
            if failed or dropped.is_set():
                continue
            try:
                work(item)
            except BaseException as error:
                failed.append(error)

    def put(item: T) -> None:
        if failed:
            raise failed[0]
        waiting.put(item)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield put
    except BaseException:
        dropped.set()
        raise
    finally:
        waiting.put(END)
        thread.join()
    if failed:
        raise failed[0]
