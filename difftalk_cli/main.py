"""The `difftalk` program: a group whose commands are imported only when they are called."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

import stages

COMMANDS = {
    "preprocess": "Cut videos into clips of aligned face crops, landmarks and speech.",
    "extract-audio": "Turn the clips' speech into acoustic features.",
    "train-vae": "Train the first stage: crops to latents and back.",
    "train": "Train the conditional denoiser.",
    "infer": "Make a person (video or photo) say a recording.",
    "export": "Copy a trained model without its training states, in half precision.",
    "detect": "Tell whether difftalk made a video: its invisible mark and its metadata.",
    "interpolate": "Raise a video's frame rate with RIFE.",
    "evaluate": "Score generated videos against the true ones.",
    "train-speech": "Train an acoustic model with the contract of DeepSpeech.",
    "weights": "List or fetch third-party weights.",
    "ui": "Serve a page on this machine to try it on.",
    "doctor": "Print what this machine offers, to paste into a bug report.",
}


BadUsage: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""click's base of usage errors; newer Typers bring a click of their own, so it is found through Typer."""


class LazyCommand(TyperCommand):
    """Stands for a command in `--help`; the real one is built when it is called, so that help needs no stage."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        assert self.name
        module = importlib.import_module(f"difftalk_cli.commands.{self.name.replace('-', '_')}")
        from difftalk_cli.options import build

        return build(module, self.name, self.help or "").make_context(info_name, args, parent, **extra)


class LazyGroup(TyperGroup):
    """Commands by the table above."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        for name, help in COMMANDS.items():
            self.add_command(LazyCommand(name, help=help, short_help=help))


app = typer.Typer(
    cls=LazyGroup, add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Talking portraits by latent diffusion: from raw videos to a trained model, videos and scores.",
)  # fmt: skip


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"difftalk {stages.__version__}")
        raise typer.Exit


@app.callback()
def _top(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version.")) -> None:
    pass


def main() -> None:
    """Run and exit: 0 done, 1 a bug, 2 usage, 3 bad input or artifact, 4 some clips failed, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end: as with Ctrl-C, nothing is left half-done
    try:
        code = app(standalone_mode=False)
    except BadUsage as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
