"""Command-line options from a stage's Config: nothing is mirrored by hand."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import textwrap
import typing
from types import ModuleType
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from difftalk_cli.outcome import deliver
from difftalk_cli.progress import make_reporter
from stages.errors import UsageError
from stages.runtime import Report, Runtime, process_rank

RUNTIME_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "device": (str, "auto", "auto, cpu, cuda, cuda:1 or mps."),
    "workers": (int, 1, "Processes for per-clip work; with --ray at most so many in the cluster, 1: as many as it has room for."),
    "ray": (str | None, None, "Share the clips out over a Ray cluster: auto (the one that this machine belongs to) or its HOST:PORT."),
    "force": (bool, False, "Redo what is already there."),
    "dry_run": (bool, False, "Print what would be done, with the reasons, and change nothing."),
    "shard": (str | None, None, "I/N, counted from 0: only this share of the clips, for cluster arrays."),
    "merge": (bool, False, "Make nothing: check that all shares are there, and seal the artifact."),
    "offline": (bool, False, "Never fetch anything from the network."),
    "max_minutes": (float | None, None, "Stop cleanly after this long; the same command goes on later."),
    "threads": (int | None, None, "Processor threads of the networks; by default all."),
    "dtype": (Literal["float32", "bfloat16", "float16"], "float32", "Arithmetic of the networks; the halves are for GPUs."),
    "accumulate": (int, 1, "Pieces that each process cuts its share of a batch into; less memory, the same result."),
    "gradient_checkpointing": (bool, False, "Compute activations again instead of keeping them; less memory, slower."),
    "compile": (bool, False, "Compile the network with torch.compile; a slow start, faster steps."),
}
OUTPUT_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "json": (bool, False, "Print one JSON object instead of the result's path."),
    "quiet": (bool, False, "No progress and no log lines; errors only."),
    "log_level": (Literal["debug", "info", "warning"], "info", "How much to tell: debug shows tracebacks."),
}


def build(module: ModuleType, name: str, help: str) -> TyperCommand:
    """The command of difftalk_cli.commands.<name>.

    A stage's module has STAGE (a module name), RUNTIME (names of runtime options) and `call(stage, config, runtime,
    *, ...)`, whose keyword-only parameters are the command's own; one that is called like a setting stands for it. Other modules bring
    a Typer `app`.
    """
    if hasattr(module, "app"):
        return typer.main.get_command(module.app)  # type: ignore[return-value]
    stage = importlib.import_module(module.STAGE)
    own = [p for p in inspect.signature(module.call, eval_str=True).parameters.values() if p.kind is p.KEYWORD_ONLY]
    settings = [p for p in config_parameters(stage.Config) if p.name not in {o.name for o in own}]
    runtime = [_parameter(n, *RUNTIME_OPTIONS[n], panel=True) for n in module.RUNTIME]
    output = [_parameter(n, *OUTPUT_OPTIONS[n], panel=True) for n in OUTPUT_OPTIONS]

    def command(**values: Any) -> None:
        def pick(parameters: list[inspect.Parameter]) -> dict[str, Any]:
            return {p.name: values[p.name] for p in parameters}

        shown = pick(output)

        def work() -> Report:
            chosen = pick(runtime)
            if "shard" in chosen:
                chosen["shard"] = parse_shard(chosen["shard"])
            reporter = make_reporter(quiet=shown["quiet"] or process_rank() > 0, level=shown["log_level"])
            config = stage.Config(**pick(settings))
            return module.call(stage, config, Runtime(reporter=reporter, **chosen), **pick(own))

        table = None if shown["quiet"] else getattr(module, "table", None)
        deliver(work, as_json=shown["json"], debug=shown["log_level"] == "debug", table=table, extra=getattr(module, "extra", None))

    command.__signature__ = inspect.Signature([*own, *settings, *runtime, *output])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in (*own, *settings, *runtime, *output)}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, help=help)(command)
    return typer.main.get_command(app)  # type: ignore[return-value]


def config_parameters(config: type) -> list[inspect.Parameter]:
    """One keyword parameter for each field of a Config dataclass, its docstring as help."""
    hints, docs = typing.get_type_hints(config), field_docs(config)
    return [_parameter(f.name, hints[f.name], f.default, docs.get(f.name, "")) for f in dataclasses.fields(config)]


def _parameter(name: str, hint: Any, default: Any, help: str, panel: bool = False) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    # A flag that is off by default needs no --no-flag; one that is on does.
    flags = [f"{flag}/--no-{flag[2:]}"] if hint is bool and default else [flag]
    option = typer.Option(*flags, help=help, rich_help_panel="Running" if panel else None, show_default=default is not None)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, option])


def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return docs


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """`2/8` -> (2, 8). Raises UsageError for anything else."""
    if text is None:
        return None
    part, slash, whole = text.partition("/")
    if not (slash and part.isdigit() and whole.isdigit()):
        raise UsageError(f"--shard {text}: expected I/N, such as 0/8")
    return int(part), int(whole)
