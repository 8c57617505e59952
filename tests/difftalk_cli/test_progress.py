"""What the reporters show, and that it goes to stderr alone."""

from __future__ import annotations

import io
import re

import pytest

from difftalk_cli import progress
from difftalk_cli.progress import LineReporter, TerminalReporter, clock, make_reporter
from stages.runtime import Reporter

ODD = "a [bold]b[/bold] [/] \\[x] :smile: 'c.mp4'"
"""A file name that rich would take for markup."""


class Clock:
    """Stands for the time module."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def terminal(level: str = "info") -> tuple[TerminalReporter, io.StringIO]:
    from rich.console import Console

    shown = io.StringIO()
    reporter = TerminalReporter(level)
    assert reporter.console.stderr
    reporter.console = Console(
        file=shown,
        force_terminal=True,
        width=160,
        markup=False,
        highlight=False,
        soft_wrap=True,
        emoji=False,
        legacy_windows=False,
    )
    return reporter, shown


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = make_reporter(quiet=True, level="info")
    assert type(reporter) is Reporter
    reporter.log("a")
    reporter.warn("b")
    with reporter.progress("c", 3) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_lines_go_to_stderr_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = make_reporter(quiet=False, level="info")
    reporter.log(ODD)
    reporter.warn(ODD)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{ODD}\nwarning: {ODD}\n"


def test_level_warning_keeps_warnings_only(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    reporter = LineReporter("warning")
    reporter.log("a reason")
    reporter.warn("a danger")
    with reporter.progress("work", 2) as bar:
        time.now += 100
        bar.advance()
    assert capsys.readouterr().err == "warning: a danger\n"


def test_a_bar_without_a_terminal_speaks_now_and_then(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    with LineReporter("info").progress("preprocess", 100, "clips") as bar:
        for _ in range(60):
            time.now += 1
            bar.advance()
        bar.note("b.mp4")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "preprocess: 16/100 clips, 1/s, 1:24 left"
    assert lines[-1] == "preprocess: 60/100 clips, 1/s, 0:40 left, b.mp4"
    assert len(lines) == 4


def test_a_short_bar_says_nothing(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    with LineReporter("info").progress("probe", 3) as bar:
        time.now += 0.5
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_work_of_an_earlier_run_is_no_part_of_the_rate(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    with LineReporter("info").progress("train", 1000, "steps") as bar:
        bar.advance(300)  # resumed
        bar.advance(200)  # and another part of it
        for _ in range(20):
            time.now += 1
            bar.advance(2)
    assert capsys.readouterr().err.splitlines()[-1] == "train: 540/1000 steps, 2/s, 3:50 left"


def test_unfinished_units_are_not_rounded_up(capsys: pytest.CaptureFixture[str], time: Clock) -> None:
    with LineReporter("info").progress("evaluate", 1, "clips") as bar:
        time.now += 10
        bar.advance(0.75)
    assert "0/1 clips" in capsys.readouterr().err


def test_a_terminal_shows_text_without_reading_markup() -> None:
    reporter, shown = terminal()
    reporter.log(ODD)
    with reporter.progress(ODD, 4, "clips") as bar:
        bar.advance(2)
        bar.note(ODD)
        reporter.warn(ODD)
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.getvalue())
    assert text.startswith(ODD + "\n")
    assert f"warning: {ODD}" in text
    assert text.count(ODD) >= 4  # the line, the warning, and the bar's title and note


def test_a_bar_inside_a_bar_is_possible_on_a_terminal() -> None:
    reporter, shown = terminal()
    with reporter.progress("outer", 2) as outer:
        with reporter.progress("inner", 2) as inner:
            inner.advance(2)
        outer.advance(2)
    with reporter.progress("after", 1) as bar:
        bar.advance()
    assert "outer" in shown.getvalue() and "after" in shown.getvalue()


def test_a_bar_ends_when_the_work_fails() -> None:
    reporter, _ = terminal()
    with pytest.raises(RuntimeError, match="broken"):
        with reporter.progress("work", 2):
            raise RuntimeError("broken")
    assert reporter.live is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
