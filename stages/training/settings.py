"""Checks that the two trainings' configurations share; free of torch, so that `--help` stays quick."""

from __future__ import annotations

from typing import Any

from stages.errors import UsageError


def require_counts(config: Any, *names: str) -> None:
    """Raises UsageError when one of these fields is given and below 1."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be at least 1")


def require_resolution(asked: int | None, resolution: int) -> None:
    """Raises UsageError when --resolution is given and is not the clips'."""
    if asked not in (None, resolution):
        raise UsageError(f"--resolution {asked}: the clips are {resolution} px; run `difftalk preprocess --resolution {asked}`")
