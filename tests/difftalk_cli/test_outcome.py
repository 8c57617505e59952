"""How a run ends, called directly: stdout has the result or nothing, stderr one line, and each error its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import typer

from difftalk_cli.outcome import deliver, tell
from stages.errors import ArtifactError, DiffTalkError, DiskError, InputError, UsageError, WeightsError
from stages.runtime import Report

ROOT = Path(__file__).parents[2]
ODD = "a [bold]b[/bold] [/] \"c\" 'd' \\[x] ü :smile:.mp4"


def end(result: Report | BaseException, *, as_json: bool = False, debug: bool = False, table: Any = None) -> int:
    """The exit code of a run that returns or raises `result`."""

    def work() -> Report:
        if isinstance(result, BaseException):
            raise result
        return result

    with pytest.raises(typer.Exit) as caught:
        deliver(work, as_json=as_json, debug=debug, table=table)
    return caught.value.exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DiffTalkError, 1),
        (UsageError, 2),
        (InputError, 3),
        (ArtifactError, 3),
        (DiskError, 3),
        (WeightsError, 3),
    ],
)
def test_an_error_is_one_line_on_stderr_with_the_code_of_its_class(
    error: type[DiffTalkError], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(error(f"{ODD}: no such file")) == code
    assert capsys.readouterr() == ("", f"error: {ODD}: no such file\n")


def test_debug_adds_the_traceback_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(InputError("broken"), debug=True) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: broken\nTraceback") and "InputError: broken" in err


def test_success_prints_the_path_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(Report(out=Path(ODD), done=1)) == 0
    assert capsys.readouterr() == (f"{ODD}\n", "")


def test_json_is_one_line_with_paths_and_letters_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"table": Path("a") / "b", "name": "ü"}
    assert end(Report(out=Path(ODD), done=2, skipped=1, facts=facts), as_json=True) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1 and "ü" in out
    assert json.loads(out) == {"out": ODD, "done": 2, "skipped": 1, "failed": {}, "facts": {"table": "a/b", "name": "ü"}}


@pytest.mark.parametrize(("done", "skipped", "code"), [(2, 0, 4), (0, 1, 4), (0, 0, 3)])
def test_failed_clips_are_4_beside_good_ones_and_3_without(
    done: int, skipped: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(Report(out=Path("work"), done=done, skipped=skipped, failed={"a": "no face"})) == code
    out, err = capsys.readouterr()
    assert out == "work\n"
    assert err == f"1 failed, {done} done, {skipped} skipped; see failures.jsonl in work\n"


def test_ctrl_c_is_130_and_says_that_work_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert end(KeyboardInterrupt()) == 130
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "interrupted" in err and "kept" in err


def test_a_bug_is_1_and_its_traceback_goes_to_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert end(ZeroDivisionError("by [bold]zero[/]")) == 1
    out, err = capsys.readouterr()
    [kept] = tmp_path.iterdir()
    assert out == ""
    assert "bug: ZeroDivisionError: by [bold]zero[/]\n" in err and str(kept) in err and "difftalk doctor" in err
    assert "ZeroDivisionError: by [bold]zero[/]" in kept.read_text(encoding="utf-8")


def test_a_bug_with_debug_is_shown_and_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert end(ZeroDivisionError("oops"), debug=True) == 1
    assert "Traceback" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_table_is_drawn_before_the_result_and_never_for_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    drawn: list[Report] = []
    report = Report(out=Path("scores"), done=1)
    assert end(report, table=drawn.append) == 0
    assert end(InputError("no"), table=drawn.append) == 3
    assert drawn == [report]


def test_a_closed_stderr_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    tell("a line for nobody")


@pytest.mark.parametrize("channel", ["stdout", "stderr"])
def test_a_reader_that_stops_early_does_not_change_the_exit_code(channel: str) -> None:
    script = """
import sys
from pathlib import Path
import typer
from difftalk_cli.outcome import deliver, tell
from stages.runtime import Report

sys.stdin.readline()  # until the reader has gone
def work():
    for i in range(3):
        tell(f"line {i}")
    return Report(out=Path("result"), done=1)
try:
    deliver(work, as_json=False, debug=False, table=None)
except typer.Exit as end:
    sys.exit(40 + end.exit_code)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    gone, kept = (process.stdout, process.stderr) if channel == "stdout" else (process.stderr, process.stdout)
    assert gone and kept and process.stdin
    gone.close()
    process.stdin.close()
    said = kept.read()
    kept.close()
    assert process.wait(60) == 40
    assert said == ("line 0\nline 1\nline 2\n" if channel == "stdout" else "result\n")
