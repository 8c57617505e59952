"""difftalk preprocess SOURCES... --out DIR"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "stages.preprocess"
RUNTIME = ("workers", "ray", "force", "dry_run", "shard", "merge")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    sources: Annotated[list[Path], typer.Argument(help="Videos, and folders of them (nested, HDTF's as well).", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The clips artifact to make or to complete.", show_default=False)],
) -> Report:  # fmt: skip
    return stage.run(config, sources, out, runtime)
