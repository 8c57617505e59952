"""difftalk interpolate VIDEO -o OUT"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "stages.interpolate"
RUNTIME = ("device", "force", "dry_run", "offline")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    video: Annotated[Path, typer.Argument(help="A video, or a frames artifact.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The video (or frames artifact) to write.", show_default=False)],
) -> Report:  # fmt: skip
    return stage.run(config, video, out, runtime)
