"""What worker processes do in test_parallel; importable by name."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.artifacts import Draft
from stages.errors import DiskError, InputError


class Untravelled(Exception):
    """Cannot be unpickled."""

    def __init__(self, a: int, b: int):
        super().__init__("two figures")


def task(payload: str, draft: Draft, tick: Callable[[float], None]) -> None:
    if payload == "bad":
        raise InputError("no face", detail="ffmpeg said so")
    if payload == "die":
        (draft.path / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    if payload == "odd":
        raise Untravelled(1, 2)
    if payload == "full":
        raise DiskError("cannot write: the disk is full")
    if payload == "blind":  # the shared disk goes away, and good input looks bad
        for path in draft.path.parent.glob(".seen-*"):
            path.unlink()
        raise InputError("no such file")
    if payload.startswith("hang"):
        Path(payload.split("|")[1]).write_text(str(os.getpid()))
        time.sleep(60)
    if payload.startswith("wait"):  # wait|FOLDER|text: says who is at it, and goes on when there is FOLDER/go
        folder = Path(payload.split("|")[1])
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").write_text(payload)
        while not (folder / "go").exists():
            time.sleep(0.05)
        payload = payload.split("|")[2]
    np.save(draft.path / "array.npy", np.arange(len(payload)))
    draft.facts["letters"] = len(payload)
    tick(1.0)
