"""Reporters: rich bars on a terminal, an occasional line elsewhere. All on stderr; stdout is for results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from difftalk_cli.outcome import tell
from stages.runtime import Progress, Reporter

LINE_SECONDS = 15.0
"""How often a bar speaks where there is no terminal."""


def make_reporter(*, quiet: bool, level: str) -> Reporter:
    """The reporter for this process's stderr."""
    if quiet:
        return Reporter()
    return TerminalReporter(level) if sys.stderr.isatty() else LineReporter(level)


class LineReporter(Reporter):
    """Plain lines, for logs and pipes."""

    def __init__(self, level: str):
        self.level = level

    def log(self, message: str) -> None:
        if self.level != "warning":
            self._write(message)

    def warn(self, message: str) -> None:
        self._write(f"warning: {message}")

    def _write(self, text: str) -> None:
        tell(text)  # the work matters more than who watches it

    @contextmanager
    def progress(self, title: str, total: float | None, unit: str = "") -> Iterator[Progress]:
        bar = LineBar(self, title, total, unit)
        yield bar
        bar.end()


class LineBar:
    """Says how far it is every LINE_SECONDS."""

    period = LINE_SECONDS

    def __init__(self, reporter: LineReporter, title: str, total: float | None, unit: str):
        self.reporter, self.title, self.total, self.unit = reporter, title, total, unit
        self.done, self.text = 0.0, ""
        self.first = 0.0
        self.begin = self.spoke = time.monotonic()

    def advance(self, n: float = 1) -> None:
        if not self.done and n > 1 and time.monotonic() - self.begin < 0.1:
            self.first = n  # work of an earlier run: no part of this one's rate
        self.done += n
        if time.monotonic() - self.spoke > self.period:
            self._say()

    def note(self, text: str) -> None:
        self.text = text

    def end(self) -> None:
        if time.monotonic() - self.begin > 1:
            self._say()

    def rate(self) -> float:
        """Units a second in this run."""
        return (self.done - self.first) / max(1e-9, time.monotonic() - self.begin)

    def left(self, rate: float) -> float | None:
        """Seconds until the end, None where that cannot be told."""
        return (self.total - self.done) / rate if self.total and rate > 0 and self.done < self.total else None

    def _say(self) -> None:
        self.spoke, rate = time.monotonic(), self.rate()
        share = f"{int(self.done)}/{self.total:.0f}" if self.total else f"{int(self.done)}"
        seconds = self.left(rate)
        left = "" if seconds is None else f", {clock(seconds)} left"
        note = f", {self.text}" if self.text else ""
        self.reporter.log(f"{self.title}: {share} {self.unit}, {rate:.3g}/s{left}{note}")


class TerminalReporter(LineReporter):
    """Bars with rate and time left; log lines scroll above them."""

    def __init__(self, level: str):
        super().__init__(level)
        from rich.console import Console

        # No markup and no highlighting: file names are shown as they are.
        self.console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
        self.live: Any = None

    def _write(self, text: str) -> None:
        self.console.print(text)

    @contextmanager
    def progress(self, title: str, total: float | None, unit: str = "") -> Iterator[Progress]:
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Any) -> Text:
                return Text(f"{task.speed:.3g} {unit}/s" if task.speed else "")

        if self.live is not None:  # a bar inside a bar: lines will do
            yield LineBar(self, title, total, unit)
            return
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        with RichProgress(*columns, console=self.console, transient=True) as live:
            self.live = live
            try:
                yield RichBar(live, live.add_task(title, total=total, note=""))
            finally:
                self.live = None


class RichBar:
    """One rich task."""

    def __init__(self, live: Any, task: Any):
        self.live, self.task = live, task

    def advance(self, n: float = 1) -> None:
        self.live.advance(self.task, n)

    def note(self, text: str) -> None:
        self.live.update(self.task, note=text)


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, s = divmod(round(seconds), 60)
    h, m = divmod(minutes, 60)
    return f"{h}:{m:02d}:{s:02d}" if h else f"{m}:{s:02d}"
