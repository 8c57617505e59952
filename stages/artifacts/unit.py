"""One unit of work: what it is made from, how it is built aside and committed, and whether it is still sound."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.artifacts.files import explain_os_errors, make_folder, read_json, remove_tree, replace_tree, write_json
from stages.artifacts.fingerprint import DigestCache, Input, digest_json, file_digest

RECORD_FIELDS = {"id": str, "fingerprint": str, "key": dict, "facts": dict, "files": dict, "digest": str}
NAME_BYTES = 255
"""Longest file name of the usual file systems."""


@dataclass(frozen=True)
class Unit:
    """One clip's work: what it is computed from decides whether it must be done again."""

    id: str
    inputs: tuple[Input, ...]
    payload: Any = None
    """What the stage needs to do the work; never hashed."""
    source: str = ""
    """What to call it in failures.jsonl: a file's name."""
    share: str = ""
    """What decides which shard makes it; by default its id, which may cost a reading of the source."""

    def __post_init__(self) -> None:
        assert self.id not in ("", ".", "..") and not {"/", "\0"} & set(self.id), f"{self.id!r} cannot name a folder"


@dataclass
class Draft:
    """A unit being built, in a folder of its own."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def commit(final: Path, temp: Path, id: str, key: dict[str, Any]) -> Iterator[Draft]:
    """Build a unit below `temp` and rename it to `final` when the block ends well. Safe in a worker process.

    Raises DiskError when the disk refuses; what the block raises passes through.
    """
    folder = temp / f"{digest_json(id)[:16]}-{uuid.uuid4().hex[:8]}"  # an id may be as long as a name can be
    make_folder(folder)
    draft = Draft(folder)
    try:
        with explain_os_errors(final, folder):
            yield draft
            files = {
                str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": file_digest(p)}
                for p in sorted(folder.rglob("*"))
                if p.is_file()
            }
        facts = json.loads(json.dumps(draft.facts))
        record = {
            "id": id,
            "fingerprint": digest_json(key),
            "key": key,
            "facts": facts,
            "files": files,
            "digest": digest_json({"facts": facts, "files": files}),
        }
        write_json(folder / "clip.json", record)
        replace_tree(folder, final, temp / f"trash-{folder.name}")  # its own: workers must not sweep each other's
    finally:
        remove_tree(folder)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The unit's clip.json, or None when it is absent, torn, or not what `commit` wrote for this folder."""
    record = read_json(folder / "clip.json")
    if record is None or any(not isinstance(record.get(name), kind) for name, kind in RECORD_FIELDS.items()):
        return None
    sound = (
        record["id"] == folder.name
        and record["fingerprint"] == digest_json(record["key"])
        and record["digest"] == digest_json({"facts": record["facts"], "files": record["files"]})
    )
    return record if sound else None


def damage(folder: Path, record: dict[str, Any], digests: DigestCache) -> str:
    """What is wrong with the unit's files, or an empty text."""
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file():
            return f"damaged ({name} is gone)"
        if path.stat().st_size != expected["bytes"]:
            return f"damaged ({name} has {path.stat().st_size} bytes of {expected['bytes']})"
        if digests.digest(path, f"{folder.name}/{name}") != expected["sha256"]:
            return f"damaged ({name} differs from its sha256)"
    return ""
