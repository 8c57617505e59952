"""Form fields from a stage's Config, and back: as the command line's options, nothing is mirrored by hand."""

from __future__ import annotations

import types
import typing
from dataclasses import fields
from typing import Any, Literal

import gradio as gr

from difftalk_cli.options import field_docs
from stages.errors import UsageError

STEPS = {"feather": 0.01, "guidance": 0.5, "lip_gain": 0.1, "start": 0.5, "end": 0.5, "max_gap": 0.1, "max_turn": 0.05}
"""What the arrows of a field add, where that is not 1."""


def setting_components(config: type, names: tuple[str, ...], *, brief: bool = False) -> dict[str, Any]:
    """One component for each named field, its docstring as help unless it is to be `brief`."""
    hints, docs = typing.get_type_hints(config), field_docs(config)
    chosen = [f for f in fields(config) if f.name in names]
    return {f.name: _component(f.name, hints[f.name], f.default, None if brief else docs.get(f.name)) for f in chosen}


def _component(name: str, hint: Any, default: Any, help: str | None) -> Any:
    shared: dict[str, Any] = {"label": name.replace("_", " ").capitalize(), "info": help, "value": default, "elem_id": f"set-{name}"}
    if typing.get_origin(hint) is Literal:
        return gr.Dropdown(list(typing.get_args(hint)), **shared)
    if hint is bool:
        return gr.Checkbox(**shared)
    whole = hint is int or int in typing.get_args(hint)
    empty = "by itself" if default is None else None
    return gr.Number(precision=0 if whole else None, step=STEPS.get(name, 1), placeholder=empty, **shared, min_width=90)


def config_of(config: type, values: dict[str, Any]) -> Any:
    """The Config of a form's values. Raises UsageError for an empty field that needs a number, and as the Config itself does."""
    hints = typing.get_type_hints(config)
    for name, value in values.items():
        if value is None and not _may_be_empty(hints[name]):
            raise UsageError(f"{name.replace('_', ' ')}: needs a number")
    return config(**values)


def _may_be_empty(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
