"""The command of small_stage."""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "tests.difftalk_cli.small_stage"
RUNTIME = ("workers", "shard")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    work: Annotated[Path, typer.Argument(help="Where the work lies.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where the result goes.")] = None,
) -> Report:  # fmt: skip
    return stage.run(config, work, out, runtime)
