"""Which clips a folder of videos holds: one a file, or HDTF's annotated intervals where its annotation files lie about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.errors import InputError

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv .vob .mxf .gif".split()
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A video, or a part of one."""

    path: Path
    stem: str
    """First part of the clip id."""
    start: float = 0.0
    """Seconds."""
    seconds: float | None = None
    box: tuple[int, int, int, int] | None = None
    """x, y, width, height of the part of the picture to look at, in pixels."""


def find_sources(inputs: Sequence[Path]) -> list[Source]:
    """Clips in files and (nested) folders, sorted by path.

    HDTF: where a folder or its parents hold `*_annotion_time.txt` [sic], a video named in it becomes one source for
    each interval, cut to its window from `*_crop_wh.txt` (facts: MRzzm/HDTF). Hidden files are passed over.
    Raises InputError when a path is absent or holds no video at all.
    """
    found: dict[Path, Path] = {}  # video -> the input it came from
    for path in inputs:
        if path.is_dir():
            videos = [p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
            found |= {p: path for p in videos if not any(part.startswith(".") for part in p.relative_to(path).parts)}
        elif path.exists():
            found[path] = path.parent
        else:
            raise InputError(f"{path}: no such file or folder")
    if not found:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES))
        raise InputError(f"{', '.join(map(str, inputs))}: no videos there (files ending in {suffixes})")
    # Beside a single file only its own folder is looked at: it may be somebody's home.
    annotations = {root: read_annotations(root, nested=root in inputs) for root in set(found.values())}
    sources: list[Source] = []
    for path in sorted(found):
        intervals, boxes = annotations[found[path]]
        if path.name not in intervals:
            sources.append(Source(path=path, stem=path.stem))
            continue
        for i, (start, end) in enumerate(intervals[path.name]):
            stem = f"{path.stem}_{i}"
            sources.append(Source(path=path, stem=stem, start=start, seconds=end - start, box=boxes.get(f"{stem}.mp4")))
    return sources


Box = tuple[int, int, int, int]


def read_annotations(folder: Path, *, nested: bool = True) -> tuple[dict[str, list[tuple[float, float]]], dict[str, Box]]:
    """HDTF's interval and window files in `folder` (and below, if `nested`): video -> [(start, end) s], clip -> (x, y, w, h).

    Raises InputError for a line that cannot be read.
    """
    deep = "**/" if nested else ""
    intervals: dict[str, list[tuple[float, float]]] = {}
    boxes: dict[str, Box] = {}
    for path in sorted(folder.glob(f"{deep}*_annotion_time.txt")):
        for number, line in _lines(path):
            name, *spans = line.split()
            times = [re.fullmatch(r"(\d+):(\d+)-(\d+):(\d+)", span) for span in spans]
            if not spans or not all(times):
                raise InputError(f"{path}, line {number}: expected `name.mp4 mm:ss-mm:ss ...`, found {line!r}")
            pairs = [tuple(int(g) for g in t.groups()) for t in times if t]
            intervals[name] = [(60.0 * a + b, 60.0 * c + d) for a, b, c, d in pairs]
            if any(end <= start for start, end in intervals[name]):
                raise InputError(f"{path}, line {number}: an interval ends before it starts: {line!r}")
    for path in sorted(folder.glob(f"{deep}*_crop_wh.txt")):
        for number, line in _lines(path):
            name, *values = line.split()
            try:
                x, w, y, h = (int(v) for v in values)  # HDTF's order: min_width width min_height height
            except ValueError:
                raise InputError(f"{path}, line {number}: expected `name.mp4 x w y h`, found {line!r}") from None
            boxes[name] = (x, y, w, h)
    return intervals, boxes


def _lines(path: Path) -> list[tuple[int, str]]:
    # utf-8-sig: one of HDTF's files begins with a byte-order mark
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
