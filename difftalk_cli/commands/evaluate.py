"""difftalk evaluate GENERATED TRUTH"""

from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from stages.runtime import Report, Runtime

STAGE = "stages.evaluate"
RUNTIME = ("device", "workers", "ray", "force", "dry_run", "shard", "merge", "offline")


def call(
    stage: ModuleType, config: Any, runtime: Runtime, *,
    generated: Annotated[Path, typer.Argument(help="Folder of generated videos, or one video.", show_default=False)],
    truth: Annotated[Path, typer.Argument(help="Folder of true videos with the same names, or one video.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The scores artifact; by default GENERATED-scores beside it.")] = None,
) -> Report:  # fmt: skip
    root = out or generated.parent / f"{generated.stem}-scores"
    return stage.run(config, stage.Inputs(generated, truth), root, runtime)


def table(report: Report) -> None:
    """The means on stderr, a column a method: the figure, and its 95 % interval where there are clips enough to tell it."""
    from rich.console import Console
    from rich.table import Table

    methods = report.facts.get("methods", {})
    names = list(dict.fromkeys(name for means in methods.values() for name in means))
    if not names:
        return
    shown = Table("metric", *methods)
    for name in names:
        shown.add_row(name, *(_cell(means[name]) if name in means else "" for means in methods.values()))
    Console(stderr=True, markup=False, highlight=False).print(shown)


def _cell(figure: dict[str, Any]) -> str:
    interval = figure["ci95"]
    return f"{figure['mean']:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")
