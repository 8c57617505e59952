"""difftalk evaluate GENERATED TRUTH"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.errors import UsageError
from stages.runtime import Report, Runtime

STAGE = "stages.evaluate"
NAME_WIDTH, INTERVAL_WIDTH = 28, 30
"""Columns of the terminal that a metric's name takes, and a mean with its interval."""
MODEL = "Denoiser artifact that draws the rows autoencoder, wrong_audio and silence; by default the bundled one."
SYNCNET = "SyncNet's official weights, syncnet_v2.model; without them sync is told by difftalk-sync."
RUNTIME = ("device", "workers", "ray", "force", "dry_run", "shard", "merge", "offline")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    generated: Annotated[Path, typer.Argument(help="Folder of generated videos, or one video.", show_default=False)],
    truth: Annotated[Path, typer.Argument(help="Folder of true videos with the same names, or one video.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The scores artifact; by default GENERATED-scores beside it.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER: more generated videos; may be given again.")] = None,
    model: Annotated[Path | None, typer.Option(help=MODEL)] = None,
    syncnet: Annotated[Path | None, typer.Option(help=SYNCNET)] = None,
) -> Report:  # fmt: skip
    root = out or generated.parent / f"{generated.stem}-scores"
    return stage.run(config, stage.Inputs(generated, truth, _methods(method or []), model, syncnet), root, runtime)


def _methods(given: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UsageError(f"--method {text}: expected NAME=FOLDER")
        if name in found:
            raise UsageError(f"--method {text}: {name} is given twice")
        found[name] = Path(folder)
    return found


def extra(report: Report) -> dict[str, Any]:
    """What --json prints beside the rest: the content of scores.json."""
    return {key: report.facts.pop(key) for key in ("methods", "clips", "settings") if key in report.facts}


def table(report: Report) -> None:
    """The means on stderr, a column a method: the figure, and its 95 % interval where there are clips enough to tell it."""
    from rich.console import Console
    from rich.table import Table

    methods = {name: means for name, means in report.facts.get("methods", {}).items() if means}
    names = list(dict.fromkeys(name for means in methods.values() for name in means))
    if not names:
        return
    console = Console(stderr=True, markup=False, highlight=False)
    wide = console.width >= NAME_WIDTH + INTERVAL_WIDTH * len(methods)
    shown = Table()
    shown.add_column("metric", no_wrap=True)
    for method in methods:
        shown.add_column(method, justify="right", overflow="fold")
    for name in names:
        shown.add_row(name, *(_cell(means.get(name), wide) for means in methods.values()))
    console.print(shown)
    if not wide:
        console.print("95 % intervals: in a wider terminal, in scores.json and in report.html")


def _cell(figure: dict[str, Any] | None, wide: bool) -> str:
    if figure is None or figure["mean"] is None:
        return "-"
    interval = figure["ci95"] if wide else None
    return f"{figure['mean']:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")
