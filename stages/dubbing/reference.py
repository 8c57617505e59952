"""Who speaks: a video, a photo or a preprocessed clip, its face followed once and remembered by content."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from stages.artifacts import digest_json, file_digest, write_atomic
from stages.artifacts.read import read_clip
from stages.errors import ArtifactError, InputError
from stages.faces import FOUND, LOST, FaceConfig, FaceTrack, apply, locate_face
from stages.media.feed import ArrayFeed, Feed, open_feed
from stages.runtime import Progress, Runtime
from stages.shapes import EYE_LEFT, EYE_RIGHT, NOSE_BASE
from stages.weights import cache_folder

TRACKING = 2  # 2: centres of pixels stay centres when dlib's picture is scaled
"""Number of the tracking code: a new one forgets what was remembered."""
KEPT_TRACKS = 200


@dataclass
class Reference:
    """One person's frames and where the face is in them."""

    path: Path
    digest: str
    feed: Feed
    track: FaceTrack
    count: int
    """Frames that can be read."""
    max_turn: float

    @property
    def turned(self) -> np.ndarray:
        """(T,) bool: the face is seen, but turned too far for its alignment to be trusted."""
        return (self.track.status != LOST) & (turn(self.track.landmarks) > self.max_turn)

    @property
    def usable(self) -> np.ndarray:
        """(T,) bool."""
        return (self.track.status != LOST) & ~self.turned


def turn(landmarks: np.ndarray) -> np.ndarray:
    """How far faces (T, 68, 2) look aside: 0 to the camera, about 0.5 where one eye hides behind the nose; NaN where lost.

    The offset of the nose's base from the middle between the eyes, across, in eye distances.
    """
    right, left, nose = (landmarks[:, part].mean(1) for part in (EYE_RIGHT, EYE_LEFT, NOSE_BASE))
    across = left - right
    length = np.maximum(np.linalg.norm(across, axis=-1), 1e-6)
    return np.abs(((nose - (left + right) / 2) * across).sum(-1)) / length**2


def open_reference(
    path: Path, faces: FaceConfig, runtime: Runtime, *, start: float = 0.0, end: float | None = None, max_turn: float = 1.0
) -> Reference:
    """Open `path` (its part from `start` to `end` seconds) and follow the face.

    Raises InputError without a face, and for what is neither a video nor a photo nor a clip of `difftalk preprocess`.
    """
    if path.is_dir():
        if not (path / "clip.json").exists():
            raise InputError(f"{path}: a folder, but no clip of difftalk preprocess; give one video, photo or WORK/clips/ID")
        return _clip(path, max_turn)
    feed = open_feed(path, start_seconds=start, seconds=None if end is None else end - start)
    digest = file_digest(path)
    kept = track_place(digest, faces, start, end)
    if found := recall(kept):
        runtime.reporter.log(f"{path.name}: face track known from an earlier run")
        track, count, warning = found
    else:
        track, count, warning = _follow(feed, path, faces, runtime)
        remember(kept, track, count, warning)
    if warning:
        runtime.reporter.warn(f"{path}: damaged, {count} frames could be read ({warning})")
    return Reference(path, digest, feed, track, count, max_turn)


def tracks_folder() -> Path:
    """Where face tracks are remembered: $DIFFTALK_TRACKS for who must leave none behind, else in the cache."""
    named = os.environ.get("DIFFTALK_TRACKS")
    return Path(named) if named else cache_folder() / "tracks"


def _follow(feed: Feed, path: Path, faces: FaceConfig, runtime: Runtime) -> tuple[FaceTrack, int, str]:
    seen = 0

    def watched(bar: Progress) -> Iterator[np.ndarray]:
        nonlocal seen
        for frame in feed.once():
            yield frame
            seen += 1
            bar.advance(1)

    try:
        with runtime.reporter.progress("track", None, "frames") as bar:
            track = locate_face(watched(bar), float(feed.fps), faces, runtime.reporter)
    except InputError as error:
        where = str(path)
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}", detail=error.detail) from error
    return track, seen, feed.warning


def track_place(digest: str, faces: FaceConfig, start: float = 0.0, end: float | None = None) -> Path:
    """Where the face track of a film with that content is remembered."""
    return tracks_folder() / f"{digest_json([digest, asdict(faces), start, end, TRACKING])[:32]}.npz"


def recall(path: Path) -> tuple[FaceTrack, int, str] | None:
    """(track, frames, what was wrong with the film), or None where nothing is remembered."""
    try:
        with np.load(path, allow_pickle=False) as z:
            told = json.loads(str(z["told"]))
            arrays = {k: z[k] for k in ("landmarks", "align", "status", "shot", "embedding")}
        path.touch()  # what is used stays longest
        return FaceTrack(**arrays, people=told["people"]), told["count"], told["warning"]
    except Exception:  # absent, damaged or from another version: follow the face again
        return None


def remember(path: Path, track: FaceTrack, count: int, warning: str) -> None:
    """A cache that cannot be written is no reason to fail; the oldest tracks make room."""
    with suppress(OSError, ArtifactError):
        with write_atomic(path) as part, part.open("wb") as f:
            told = json.dumps({"people": track.people, "count": count, "warning": warning})
            arrays = {k: getattr(track, k) for k in ("landmarks", "align", "status", "shot", "embedding")}
            np.savez(f, told=np.array(told), **arrays)
        old = sorted(path.parent.glob("*.npz"), key=lambda p: p.stat().st_mtime)[:-KEPT_TRACKS]
        for one in old:
            one.unlink(missing_ok=True)


def _clip(path: Path, max_turn: float) -> Reference:
    """A clip of a clips artifact: its crops are the picture."""
    clip = read_clip(path)
    if "fps" not in clip.facts or not (path / "crops.npy").is_file():
        raise InputError(f"{path}: not a clip that `difftalk preprocess` made; give a video, a photo or WORK/clips/ID")
    crops = clip.array("crops.npy")
    side = crops.shape[1]
    source, align = np.asarray(clip.array("landmarks.npy")), np.asarray(clip.array("align.npy"))
    landmarks = np.stack([apply(m, p) for m, p in zip(align, source, strict=True)]) * side - 0.5
    unit = np.array([[1 / side, 0, 0.5 / side], [0, 1 / side, 0.5 / side]], np.float32)
    count = len(crops)
    track = FaceTrack(
        landmarks.astype(np.float32), np.tile(unit, (count, 1, 1)), np.full(count, FOUND, np.uint8),
        np.asarray(clip.array("segment.npy")), np.asarray(clip.array("identity.npy")),
    )  # fmt: skip
    return Reference(path, clip.digest, ArrayFeed(crops, Fraction(clip.facts["fps"])), track, count, max_turn)
