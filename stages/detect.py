"""detect: was this video made by difftalk? The invisible mark in the mouth, and what the container tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.dubbing.watermark import SIDE, THRESHOLD, measure, score
from stages.errors import InputError
from stages.faces import FaceConfig, crop, locate_face
from stages.faces.detect import LandmarkTool
from stages.faces.mask import MaskKind
from stages.media.feed import open_feed
from stages.media.photo import is_photo
from stages.media.probe import read_tags
from stages.runtime import Progress, Report, Runtime

KINDS: tuple[MaskKind, ...] = ("lower-face", "mouth")
WINDOW_SECONDS = 4.0
"""A film may be generated in part: each stretch of this length is looked at as well as the whole."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to look."""

    landmarks: LandmarkTool = "dlib"
    """Landmark tool: dlib or face-alignment."""
    people: int = 2
    """How many persons to look at, most prominent first."""


def run(config: Config, path: Path, runtime: Runtime) -> Report:
    """Facts: `synthetic` (bool), `watermark` {found, score, threshold, faces}, `metadata` {found, text}.

    Raises InputError for what is no video or picture. A video without a face has no score: only its metadata can tell.
    """
    path = Path(path)
    tags = {} if is_photo(path) else read_tags(path)
    text = next((v for v in tags.values() if "difftalk" in v), "")
    faces = [_scores(path, config, face, runtime) for face in range(config.people)]
    found = [f for f in faces if f is not None]
    best = max((f["score"] for f in found), default=None)
    marked = best is not None and best >= THRESHOLD
    facts: dict[str, Any] = {
        "synthetic": marked or bool(text),
        "watermark": {"found": marked, "score": best, "threshold": THRESHOLD, "faces": found},
        "metadata": {"found": bool(text), "text": text},
    }
    if best is None:
        runtime.reporter.warn(f"{path}: no face found, so there is nothing that could carry the mark")
    return Report(out=path, done=1, facts=facts)


def _scores(path: Path, config: Config, face: int, runtime: Runtime) -> dict[str, Any] | None:
    """The mark's score on one person, None where there are not so many."""
    feed, seen = open_feed(path), 0

    def watched(bar: Progress) -> Iterator[np.ndarray]:
        nonlocal seen
        for frame in feed.once():
            yield frame
            seen += 1
            bar.advance(1)

    try:
        with runtime.reporter.progress(f"look at face {face}", None, "frames") as bar:
            track = locate_face(watched(bar), float(feed.fps), FaceConfig(landmarks=config.landmarks, face=face), runtime.reporter)
    except InputError:
        if not seen:
            raise
        return None
    waves: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    times: list[float] = []
    for number, (frame, align) in enumerate(zip(feed.once(), track.align, strict=False)):
        if np.isfinite(align).all():
            times.append(float(number / feed.fps))
            picture = crop(frame, align, SIDE)
            for kind in KINDS:
                waves[kind].append(measure(picture, kind))
    if not waves[KINDS[0]]:
        return None
    window = max(2, round(WINDOW_SECONDS * feed.fps))
    best = max(_best(np.stack(waves[kind]), np.array(times), window) for kind in KINDS)
    return {"face": face, "score": round(best, 2), "frames": len(waves[KINDS[0]])}


def _best(waves: np.ndarray, seconds: np.ndarray, window: int) -> float:
    """The score of the whole or of its best stretch; the more stretches, the more a stretch must show."""
    whole = score(waves, seconds)
    starts = range(0, len(waves) - window + 1, window)
    if len(starts) < 2:
        return whole
    parts = max(score(waves[i : i + window], seconds[i : i + window]) for i in starts)
    return max(whole, max(0.0, parts**2 - 2 * float(np.log(len(starts)))) ** 0.5)
