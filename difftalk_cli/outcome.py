"""How a run ends: its result on stdout, one clear line for an error, and the exit code."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from typing import Any, TextIO

import typer

from stages.errors import DiffTalkError
from stages.runtime import Report, process_rank

Extra = Callable[[Report], dict[str, Any]]


def deliver(
    work: Callable[[], Report], *, as_json: bool, debug: bool, table: Callable[[Report], None] | None, extra: Extra | None = None
) -> None:
    """Run `work` and leave with its exit code (see difftalk_cli.main.main). `extra` adds keys to what --json prints."""
    try:
        with redirect_stdout(sys.stderr):  # what libraries say (Ray's news of lost nodes) is no result
            report = work()
    except DiffTalkError as error:
        tell(f"error: {error}")
        if debug:
            traceback.print_exc()
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        tell("interrupted; what was finished is kept, nothing half-written is; the same command goes on")
        raise typer.Exit(130) from None
    except Exception as error:
        tell(f"bug: {type(error).__name__}: {error}")
        if debug:
            traceback.print_exc()
        else:
            tell(f"this is not your fault; please report it with {_keep_trace()} and the output of `difftalk doctor`")
        raise typer.Exit(1) from None
    if process_rank() > 0:  # of several processes of one training the first speaks for all
        raise typer.Exit(report.exit_code)
    if report.failed:
        tell(f"{len(report.failed)} failed, {report.done} done, {report.skipped} skipped; see failures.jsonl in {report.out}")
    if table:
        table(report)
    _print_result(report, as_json, extra)
    raise typer.Exit(report.exit_code)


def tell(text: str) -> None:
    """One line on stderr, exactly as it is: paths may hold anything that looks like markup."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        silence(sys.stderr)


def _print_result(report: Report, as_json: bool, extra: Extra | None = None) -> None:
    text = str(report.out)
    if as_json:
        record: dict[str, Any] = {
            "out": str(report.out), "done": report.done, "skipped": report.skipped, "failed": report.failed, "facts": report.facts,
        }  # fmt: skip
        record |= extra(report) if extra else {}
        text = json.dumps(record, ensure_ascii=False, default=str)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence(sys.stdout)


def silence(stream: TextIO) -> None:
    """Nobody reads `stream` any more: let the rest go nowhere, or Python ends with 120 when it flushes it at exit."""
    with suppress(OSError, ValueError, AttributeError):  # a stream without a file needs nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _keep_trace() -> str:
    with tempfile.NamedTemporaryFile("w", prefix="difftalk-trace-", suffix=".txt", delete=False, encoding="utf-8") as f:
        traceback.print_exc(file=f)
    return f.name
