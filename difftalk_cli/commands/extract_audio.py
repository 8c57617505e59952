"""difftalk extract-audio WORK"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "stages.extract_audio"
RUNTIME = ("device", "workers", "ray", "force", "dry_run", "shard", "merge")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    work: Annotated[Path, typer.Argument(help="A clips artifact (difftalk preprocess).", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The features artifact; by default WORK/features.")] = None,
) -> Report:  # fmt: skip
    return stage.run(config, work, out, runtime)
