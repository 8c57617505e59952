"""Form fields from a stage's Config, and back: as the command line's options, nothing is mirrored by hand."""

from __future__ import annotations

import types
import typing
from dataclasses import fields
from typing import Any, Literal

import gradio as gr

from difftalk_cli.options import field_docs
from stages.errors import UsageError

STEPS = {
    "feather": 0.01, "guidance": 0.5, "strength": 0.05, "lip_gain": 0.1, "start": 0.5, "end": 0.5, "max_gap": 0.1, "max_turn": 0.05,
}  # fmt: skip
"""What the arrows of a field add, where that is not 1."""
EMPTY = {"end": "its end"}
"""What an empty field stands for, where that is not the model's own value (config.json, `sampling`)."""


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
    if _may_be_empty(hint):  # a gr.Number that was left empty says 0
        return gr.Textbox(placeholder=EMPTY.get(name, "auto"), max_lines=1, **shared, min_width=90)
    return gr.Number(precision=0 if hint is int else None, step=STEPS.get(name, 1), **shared, min_width=90)


def config_of(config: type, values: dict[str, Any]) -> Any:
    """The Config of a form's values. Raises UsageError for a field without the number that it needs, and as the Config itself does."""
    hints = typing.get_type_hints(config)
    return config(**{name: _value(name, hints[name], value) for name, value in values.items()})


def _value(name: str, hint: Any, value: Any) -> Any:
    said = name.replace("_", " ")
    if not _may_be_empty(hint):
        if value is None:
            raise UsageError(f"{said}: needs a number")
        return value
    text = str("" if value is None else value).strip().replace(",", ".")
    whole = int in typing.get_args(hint)
    try:
        return (int if whole else float)(text) if text else None
    except ValueError:
        kind, empty = "whole number" if whole else "number", EMPTY.get(name, "its default")
        raise UsageError(f"{said}: {text} is no {kind}; leave it empty for {empty}") from None


def _may_be_empty(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
