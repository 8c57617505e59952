"""A stage of a few lines: what the command line needs of one."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages.errors import InputError, UsageError
from stages.runtime import Report, Runtime


@dataclass(frozen=True, kw_only=True)
class Config:
    """What it depends on."""

    count: int = 3
    """How many; a second
    line of help."""
    share: float = 0.5
    """A part of the whole."""
    fast_enough: bool = False
    """Off unless asked for."""
    careful: bool = True
    """On unless refused."""
    kind: Literal["plain", "other"] = "plain"
    """Which of two."""
    number: int | None = None
    """Left to the preset."""
    table: Path | None = None
    """A file."""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UsageError(f"--count {self.count}: must be at least 0")


def run(config: Config, inputs: Path, out: Path | None, runtime: Runtime) -> Report:
    """End as the input's name says."""
    if inputs.name.startswith("bad"):
        raise InputError(f"{inputs}: nothing in it")
    if inputs.name == "bug":
        raise KeyError("something")
    if inputs.name == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    runtime.reporter.log(f"reading {inputs}")
    failed = {"clip": "no face"} if inputs.name == "some" else {}
    facts = {"config": vars(config), "shard": runtime.shard, "workers": runtime.workers}
    return Report(out=out or inputs / "result", done=2, failed=failed, facts=facts)
