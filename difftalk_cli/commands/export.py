"""difftalk export MODEL --out DIR"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "stages.export"
RUNTIME = ("dry_run",)


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    model: Annotated[Path, typer.Argument(help="A denoiser artifact (difftalk train).", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.", show_default=False)],
    vae: Annotated[Path | None, typer.Option(
        help="A first stage to give with it instead of its own: the same latents, a decoder that learned on.", show_default=False)] = None,
) -> Report:  # fmt: skip
    return stage.run(config, model, out, runtime, vae)
