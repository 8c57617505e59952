"""Which video of one folder belongs to which of another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stages.errors import InputError, UsageError
from stages.media.sources import VIDEO_SUFFIXES


@dataclass(frozen=True)
class VideoPair:
    """A generated video and the true one. `problem` says why the two cannot be compared, and is empty when they can."""

    name: str
    """Path below the folder without suffix."""
    generated: Path | None
    truth: Path | None
    problem: str = ""


def find_pairs(generated: Path, truth: Path) -> list[VideoPair]:
    """Every video of both sides, with its partner or with the reason why it has none.

    Two files are one pair. `generated` may be a frames artifact: its clips, by the names of their references. In two (nested)
    folders, paths that agree up to the suffix pair first; what they leave over pairs by stem, where a stem is clear on both sides.
    Raises InputError for a path that is absent or a folder without videos, UsageError for a file against a folder.
    """
    for path in (generated, truth):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
    if generated.is_dir() != truth.is_dir():
        raise UsageError(f"{generated} and {truth}: give two videos, or two folders of videos")
    if not generated.is_dir():
        return [VideoPair(generated.stem, generated, truth)]
    left, right = _clips(generated) if (generated / "artifact.json").is_file() else _videos(generated), _videos(truth)
    partner = {name: name for name in left if name in right}
    stems = [_by_stem([name for name in side if name not in partner]) for side in (left, right)]
    for stem, names in stems[0].items():
        others = stems[1].get(stem, [])
        if len(names) == len(others) == 1:
            partner[names[0]] = others[0]
    pairs = [_pair(name, left[name], right[partner[name]] if name in partner else []) for name in left]
    return pairs + [_pair(name, [], right[name]) for name in right if name not in partner.values()]


def _pair(name: str, left: list[Path], right: list[Path]) -> VideoPair:
    problem = ""
    for files, side in ((left, "generated video"), (right, "ground truth")):
        if not files:
            problem = problem or f"{name}: no {side} of that name"
        elif len(files) > 1:
            problem = problem or f"{name}: {len(files)} files could be its {side} ({', '.join(p.name for p in files)})"
    return VideoPair(name, left[0] if left else None, right[0] if right else None, problem)


def _videos(folder: Path) -> dict[str, list[Path]]:
    """Videos below `folder` by name; hidden ones are passed over. Several files may share a name (a.mov, a.mp4)."""
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()):
        inside = path.relative_to(folder)
        if not any(part.startswith(".") for part in inside.parts):
            found.setdefault(inside.with_suffix("").as_posix(), []).append(path)
    if not found:
        raise InputError(f"{folder}: no videos there (files ending in {' '.join(sorted(VIDEO_SUFFIXES))})")
    return found


def _clips(root: Path) -> dict[str, list[Path]]:
    """The clips of a frames artifact by what their references were called: ann-1a2b3c4d is ann's."""
    from stages.artifacts import read_artifact

    found: dict[str, list[Path]] = {}
    for id, clip in sorted(read_artifact(root, "frames").clips.items()):
        found.setdefault(re.sub(r"-[0-9a-f]{8}$", "", id), []).append(clip.path)
    if not found:
        raise InputError(f"{root}: a frames artifact without clips; see failures.jsonl there")
    return found


def _by_stem(names: list[str]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(name.rsplit("/", 1)[-1], []).append(name)
    return stems
