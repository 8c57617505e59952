"""A long video as finished parts on disk, so that a run that was stopped goes on from the last one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.artifacts.files import make_folder, read_json, remove_tree, write_json
from stages.artifacts.fingerprint import explain
from stages.artifacts.lock import lock


class Parts:
    """The hidden folder beside `out` that holds its parts; a context manager with one writer at a time.

    part-00003.mp4 and its .json appear together or not at all: the .json is written last, and counts. A folder without one
    whole part is removed when the block ends; `discard` removes it when the film is whole.
    """

    def __init__(self, out: Path, key: dict[str, Any]):
        self.folder, self.key = out.with_name(f".{out.name[:200]}.parts"), key
        self.why = ""
        """Why parts of an earlier run could not be used."""

    def __enter__(self) -> Parts:
        self._lock = lock(self.folder)
        self._lock.__enter__()
        try:
            known = read_json(self.folder / "key.json")
            if known != self.key:
                if known is not None:
                    self.why = explain(known, self.key)
                for old in self.folder.glob("[!.]*"):
                    old.unlink()
                write_json(self.folder / "key.json", self.key)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if not any(self.folder.glob("part-*.json")):
                remove_tree(self.folder)
        finally:
            self._lock.__exit__(None, None, None)

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.mp4"

    def facts(self, number: int) -> dict[str, Any] | None:
        """What was told of a finished part; None for one that is not."""
        told = read_json(self.path(number).with_suffix(".json"))
        whole = told is not None and self.path(number).is_file() and self.path(number).stat().st_size == told["bytes"]
        return told if whole else None

    @contextmanager
    def make(self, number: int) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yields (where to write, what to tell); the part is finished when the block ends well."""
        make_folder(self.folder)
        building, told = self.path(number).with_name(f"building-{number:05d}.mp4"), {}
        try:
            yield building, told
            building.replace(self.path(number))
            told["bytes"] = self.path(number).stat().st_size
            write_json(self.path(number).with_suffix(".json"), json.loads(json.dumps(told)))
        finally:
            building.unlink(missing_ok=True)

    def discard(self) -> None:
        remove_tree(self.folder)
