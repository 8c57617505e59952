"""What a run leaves behind besides clips: failures.jsonl (remembered) and run.jsonl (only told)."""

from __future__ import annotations

import datetime
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import stages
from stages.artifacts.files import append_line, write_text
from stages.errors import DiffTalkError, InputError


def failure(id: str, source: str, error: BaseException, fingerprint: str) -> dict[str, Any]:
    """One line of failures.jsonl. `final`: bad input stays failed until it changes; anything else is tried again."""
    trace = "" if isinstance(error, DiffTalkError) else "".join(traceback.format_exception(error))[-4000:]
    return {
        "id": id,
        "source": source,
        "error": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "detail": getattr(error, "detail", "") or trace,
        "fingerprint": fingerprint,
        "final": isinstance(error, InputError),
    }


def read_failures(root: Path) -> dict[str, dict[str, Any]]:
    """Failures by id from failures.jsonl, overridden by those of shards, which are later."""
    found: dict[str, dict[str, Any]] = {}
    for path in [root / "failures.jsonl", *sorted(root.glob("failures-*-of-*.jsonl"))]:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the line that was being written when the run was killed
            if isinstance(record, dict) and {"id", "message", "fingerprint", "final"} <= record.keys():
                found[record["id"]] = record
    return found


def write_failures(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write them all, whole or not at all; no failures, no file."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if text:
        write_text(path, text)
    else:
        path.unlink(missing_ok=True)


def log_run(root: Path, event: str, started: float | None = None) -> None:
    """Append to run.jsonl: the only place where time, host and command line are kept."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record: dict[str, Any] = {"event": event, "time": now, "host": socket.gethostname(), "pid": os.getpid()}
    record |= {"command": sys.argv, "version": stages.__version__}
    if started is not None:
        record["seconds"] = round(time.monotonic() - started, 3)
    append_line(root / "run.jsonl", record)
