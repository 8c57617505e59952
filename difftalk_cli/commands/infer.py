"""difftalk infer --audio A --ref R -o OUT"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "stages.infer"
RUNTIME = ("device", "dry_run")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    audio: Annotated[Path, typer.Option("--audio", "-a", help="What is said: any file with sound.", show_default=False)],
    ref: Annotated[Path, typer.Option("--ref", "-r", help="Who says it: a video or a photo.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The video (.mp4 .m4v .mov .mkv), or a folder for frames.", show_default=False)],
    model: Annotated[Path | None, typer.Option("--model", "-m", help="A denoiser artifact (difftalk train); else the bundled one.")] = None,
) -> Report:  # fmt: skip
    return stage.run(config, stage.Inputs(audio, ref, model), out, runtime)
