"""Threads that read ahead and write behind: order, errors and ends."""

import threading
import time

import pytest

from stages.dubbing.flow import ahead, behind


def test_items_come_in_order_and_not_too_far_ahead():
    made = []

    def source():
        for i in range(20):
            made.append(i)
            yield i

    got = []
    for item in ahead(source(), 3):
        time.sleep(0.005)
        got.append(item)
        assert len(made) <= item + 6
    assert got == list(range(20))


def test_an_error_of_the_source_is_raised_and_leaving_early_ends_the_thread():
    def broken():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(ahead(broken(), 2))
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    for _ in ahead(endless(), 2):
        break
    assert closed.wait(5) and threading.active_count() == before


def test_work_is_done_in_order_before_the_block_ends_and_its_errors_are_raised():
    done = []
    with behind(lambda x: (time.sleep(0.002), done.append(x)), 2) as put:
        for i in range(20):
            put(i)
    assert done == list(range(20))

    def fails(item):
        raise OSError(item)

    with pytest.raises(OSError, match="0"), behind(fails, 1) as put:
        for i in range(50):
            put(i)
            time.sleep(0.001)
    with pytest.raises(OSError, match="7"), behind(fails, 5) as put:
        put(7)


def test_a_block_that_fails_drops_what_waits():
    done = []
    with pytest.raises(KeyError), behind(lambda x: (time.sleep(0.05), done.append(x)), 10) as put:
        for i in range(8):
            put(i)
        raise KeyError
    assert len(done) <= 2
