"""The server's end of a worker process (difftalk_cli.ui.work): ask it, hear it, stop it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

GRACE_SECONDS = 15.0
"""How long an interrupted worker may take to tidy up before it is killed. What it had finished is safe either way."""

Event = dict[str, Any]


class WorkerGone(Exception):
    """The worker ended in the middle of a job. `code`: negative for a signal's number."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class Worker:
    """One worker process, started when it is needed and again after it was stopped. `first` is asked of every new one."""

    def __init__(self, first: dict[str, Any] | None = None):
        self.first = first
        self._process: subprocess.Popen[str] | None = None
        self._interrupted: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._asking = threading.Lock()

    def start(self) -> subprocess.Popen[str]:
        """The running process, a new one where there is none."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                # a session of its own: Ctrl-C in the terminal is the server's, and a kill reaches ffmpeg too
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "difftalk_cli.ui.work"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True,
                )  # fmt: skip
                if self.first:
                    _send(self._process, self.first | {"job": ""})
            return self._process

    def run(self, request: dict[str, Any]) -> Iterator[Event]:
        """The events of the request, the `end` last. Raises WorkerGone when the process ends before."""
        process = self.start()
        assert process.stdout
        with suppress(BrokenPipeError):
            _send(process, request)
        for line in process.stdout:
            event = json.loads(line)
            if event["job"] != request["job"]:
                continue
            yield event
            if event["event"] == "end":
                return
        raise WorkerGone(process.wait())

    def ask(self, request: dict[str, Any], seconds: float) -> Event:
        """The end of a short request; one that takes longer ends the worker. Others wait for their turn. Raises WorkerGone."""
        with self._asking:
            timer = threading.Timer(seconds, self.kill)
            timer.start()
            try:
                return next(event for event in self.run(request) if event["event"] == "end")
            finally:
                timer.cancel()

    def interrupt(self) -> None:
        """Make the process stop its job and end: politely, then not."""
        process = self._process
        if process is None or process is self._interrupted or process.poll() is not None:
            return  # once is enough: a second signal would disturb the tidying up
        self._interrupted = process
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        timer = threading.Timer(GRACE_SECONDS, _kill, [process])
        timer.daemon = True
        timer.start()

    def kill(self) -> None:
        """End the process now, and what it started."""
        if self._process is not None:
            _kill(self._process)

    def close(self) -> None:
        """End the process and wait for it."""
        if self._process is None:
            return
        with suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(self._process)
            self._process.wait()


def _send(process: subprocess.Popen[str], request: dict[str, Any]) -> None:
    assert process.stdin
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()


def _kill(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
