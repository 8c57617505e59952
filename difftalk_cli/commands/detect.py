"""difftalk detect FILE"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from difftalk_cli.outcome import tell
from stages.runtime import Report, Runtime

STAGE = "stages.detect"
RUNTIME = ()


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    file: Annotated[Path, typer.Argument(help="A video or a picture.", show_default=False)],
) -> Report:  # fmt: skip
    return stage.run(config, file, runtime)


def table(report: Report) -> None:
    """What was found, in words."""
    mark, told = report.facts["watermark"], report.facts["metadata"]
    if mark["score"] is None:
        tell("watermark: no face to look at")
    else:
        verdict = "found" if mark["found"] else "not found"
        tell(f"watermark: {verdict} (score {mark['score']:.1f}; from {mark['threshold']:.0f} on it is no chance)")
    tell(f"metadata: {told['text'] or 'nothing about difftalk'}")
    tell("made by difftalk" if report.facts["synthetic"] else "no sign of difftalk")
