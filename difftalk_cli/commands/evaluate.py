"""difftalk evaluate GENERATED TRUTH"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "stages.evaluate"
RUNTIME = ("device", "workers", "force", "dry_run", "offline")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    generated: Annotated[Path, typer.Argument(help="Folder of generated videos, or one video.", show_default=False)],
    truth: Annotated[Path, typer.Argument(help="Folder of true videos with the same names, or one video.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The scores artifact; by default GENERATED-scores beside it.")] = None,
) -> Report:  # fmt: skip
    root = out or generated.parent / f"{generated.stem}-scores"
    return stage.run(config, stage.Inputs(generated, truth), root, runtime)
