"""difftalk train-vae WORK"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "stages.train_vae"
RUNTIME = ("device", "force", "dry_run", "offline", "max_minutes", "accumulate", "gradient_checkpointing", "compile")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    work: Annotated[Path, typer.Argument(help="A clips artifact (difftalk preprocess).", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The vae artifact; by default WORK/vae-<resolution>.")] = None,
) -> Report:  # fmt: skip
    return stage.run(config, work, out, runtime)
