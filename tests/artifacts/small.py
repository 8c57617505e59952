"""A small stage to run a Store with: each unit writes its text twice and counts its letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.artifacts import Input, Store, Unit, Weight, digest_json
from stages.runtime import Report, Reporter, Runtime


@dataclass(frozen=True, kw_only=True)
class Config:
    size: int = 25
    gap: float = 0.4
    seed: int = 0


class Lines(Reporter):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.logged: list[str] = []
        self.warned: list[str] = []

    def log(self, message: str) -> None:
        self.logged.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)


@dataclass
class Outcome:
    report: Report
    lines: Lines
    made: list[str] = field(default_factory=list)


def units(texts: dict[str, str]) -> list[Unit]:
    return [Unit(id, (Input("text", "file", digest_json(text)),), text, f"{id}.txt") for id, text in texts.items()]


def write(folder: Path, text: str) -> None:
    (folder / "a.txt").write_text(text)
    (folder / "sub").mkdir()
    (folder / "sub" / "b.txt").write_text(text * 2)


def run(
    root: Path,
    texts: dict[str, str] | Sequence[Unit],
    *,
    config: Any = None,
    code: int = 1,
    kind: str = "clips",
    weights: Iterable[Weight] = (),
    during: Callable[[str, Path], None] | None = None,
    facts: dict[str, Any] | None = None,
    **runtime: Any,
) -> Outcome:
    """One run of the stage; `during(id, folder)` is called when a unit is half-written."""
    outcome = Outcome(Report(out=root), Lines())
    with Store(
        root, kind=kind, stage="small", code=code, config=config or Config(), weights=tuple(weights),
        runtime=Runtime(reporter=outcome.lines, **runtime), unit_config=None if config else ("size", "gap"),
    ) as store:  # fmt: skip
        for unit in store.plan(units(texts) if isinstance(texts, dict) else texts):
            with store.draft(unit) as draft:
                outcome.made.append(unit.id)
                (draft.path / "early.txt").write_text("half")
                if during:
                    during(unit.id, draft.path)
                write(draft.path, unit.payload)
                draft.facts["letters"] = len(unit.payload)
        outcome.report = store.seal(facts=facts)
    return outcome


def tree(root: Path) -> dict[str, bytes]:
    """Content by name of all that must be the same after the same work (not: run.jsonl, locks, digest cache)."""
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name != "run.jsonl" and not p.name.startswith((".lock", ".digests"))
    }


def leftovers(root: Path) -> list[str]:
    return [str(p.relative_to(root)) for p in root.rglob("*") if ".tmp" in p.name or ".part" in p.name or "trash" in p.name]
