"""One person through a video: find, follow, join across cuts by identity, fill short gaps, smooth without lag."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from stages.errors import InputError, UsageError
from stages.faces.align import anchors, similarity
from stages.faces.detect import Face, FaceFinder, LandmarkTool, make_finder, overlap
from stages.faces.shots import ShotDetector
from stages.runtime import Reporter
from stages.shapes import NUM_LANDMARKS

LOST, FOUND, FILLED = 0, 1, 2
"""Frame status: no face, seen, interpolated over a short gap."""
SAME_PERSON = 0.5
"""Distance between mean embeddings below which two tracks are one person (dlib states 0.6 for single pictures)."""
EMBED_FRAMES = (2, 60, 200)
"""Frames of a track whose identity is embedded: 0.16 s each, so only a few."""


@dataclass(frozen=True, kw_only=True)
class FaceConfig:
    """How faces are followed."""

    landmarks: LandmarkTool = "dlib"
    """Landmark tool: dlib (weights come with the installation) or face-alignment (the paper's, downloads once)."""
    face: int = 0
    """Whose face: 0 the most prominent, 1 the next, and so on, as listed in clip.json and out.json."""
    max_gap: float = 0.4
    """Seconds without a find that are bridged by interpolation; longer ones are lost frames."""

    def __post_init__(self) -> None:
        if self.face < 0:
            raise UsageError(f"--face {self.face}: must be 0 or more")
        if not 0 <= self.max_gap <= 5:
            raise UsageError(f"--max-gap {self.max_gap}: must be between 0 and 5 seconds")


@dataclass
class FaceTrack:
    """One person's face through a whole video of T frames."""

    landmarks: np.ndarray
    """(T, 68, 2) f32 source pixels, smoothed; NaN where lost."""
    align: np.ndarray
    """(T, 2, 3) f32 source pixels -> unit template; NaN where lost."""
    status: np.ndarray
    """(T,) u8: LOST, FOUND or FILLED."""
    shot: np.ndarray
    """(T,) i32: number of the shot that a frame belongs to."""
    embedding: np.ndarray
    """(128,) f32 identity."""
    people: list[dict[str, float]] = field(default_factory=list)
    """All persons seen, most prominent first: frames, mean height in pixels, mean x and y in 0..1."""

    def segments(self, min_frames: int = 1) -> list[tuple[int, int]]:
        """[start, end) runs of usable frames within one shot, at least `min_frames` long."""
        good = self.status != LOST
        starts = np.flatnonzero(good & np.r_[True, ~good[:-1] | (self.shot[1:] != self.shot[:-1])])
        ends = np.flatnonzero(good & np.r_[~good[1:] | (self.shot[1:] != self.shot[:-1]), True]) + 1
        return [(int(s), int(e)) for s, e in zip(starts, ends, strict=True) if e - s >= min_frames]


@dataclass
class _Track:
    shot: int
    frames: dict[int, Face] = field(default_factory=dict)
    embeddings: list[np.ndarray] = field(default_factory=list)

    @property
    def last(self) -> Face:
        return self.frames[max(self.frames)]


def locate_face(
    frames: Iterable[np.ndarray], fps: float, config: FaceConfig, reporter: Reporter, finder: FaceFinder | None = None
) -> FaceTrack:
    """Follow the chosen person through `frames`, an iterable of (H, W, 3) u8; memory holds landmarks, never frames.

    Raises InputError when there is no face at all, or fewer persons than `config.face` asks for.
    """
    finder = finder or make_finder(config.landmarks)
    tracks, shots, shape = _collect(frames, fps, finder, max_gap=round(config.max_gap * fps))
    people = _people(tracks, shape)
    if not people:
        raise InputError(
            "no face found; it must be at least a twelfth of the picture's short side and look roughly at the camera"
        )
    if config.face >= len(people):
        raise InputError(f"--face {config.face}: only {len(people)} face(s) found, numbered from 0")
    chosen = people[config.face]
    track = _assemble(chosen, np.array(shots, np.int32), fps, round(config.max_gap * fps))
    track.people = [_describe(p, shape) for p in people]
    return track


def _collect(frames: Iterable[np.ndarray], fps: float, finder: FaceFinder, max_gap: int) -> tuple[list[_Track], list[int], tuple[int, int]]:
    """Tracks of every face, the shot of every frame, and the picture's (height, width)."""
    cuts, done, live, shots = ShotDetector(), [], [], []
    shape, shot, searched = (0, 0), 0, -1e9
    for i, frame in enumerate(frames):
        shape = frame.shape[:2]
        if cuts.is_cut(frame):
            shot, searched = shot + 1, -1e9
            done, live = done + live, []
        shots.append(shot)
        for track in live:
            face = finder.follow(frame, track.last)
            if face and not any(o is not track and i in o.frames and overlap(face.box, o.frames[i].box) > 0.4 for o in live):
                track.frames[i] = face
        lost = [t for t in live if i - max(t.frames) > max_gap]
        done, live = done + lost, [t for t in live if t not in lost]
        # Someone may walk in: look at the whole picture once a second, five times where somebody is missed.
        everybody = live and all(i in t.frames for t in live)
        if i - searched >= (fps if everybody else fps / 5):
            searched = i
            for face in finder.find(frame):
                if all(overlap(face.box, t.last.box) < 0.2 for t in live):
                    live.append(_Track(shot, {i: face}))
        for track in live:
            if i in track.frames and len(track.frames) in EMBED_FRAMES:
                track.embeddings.append(finder.embed(frame, track.frames[i]))
    # A find that does not last is texture, not a face.
    tracks = [t for t in done + live if len(t.frames) >= min(3, len(shots)) or len(shots) == 1]
    for track in tracks:
        if not track.embeddings:  # too short to have been embedded: a person of its own
            track.embeddings = [np.full(128, np.nan, np.float32)]
    return tracks, shots, shape


def _people(tracks: list[_Track], shape: tuple[int, int]) -> list[list[_Track]]:
    """Tracks grouped by identity, most prominent person first."""
    people: list[list[_Track]] = []
    for track in sorted(tracks, key=lambda t: -len(t.frames)):
        mine = np.mean(track.embeddings, axis=0)
        distances = [
            np.inf if any(set(t.frames) & set(track.frames) for t in p) else np.linalg.norm(_identity(p) - mine) for p in people
        ]
        best = int(np.nanargmin(distances)) if distances and not np.isnan(distances).all() else -1
        if best >= 0 and distances[best] < SAME_PERSON:
            people[best].append(track)
        else:
            people.append([track])
    return sorted(people, key=lambda p: -_prominence(p, shape))


def _identity(person: list[_Track]) -> np.ndarray:
    weights = [len(t.frames) for t in person]
    return np.average([np.mean(t.embeddings, axis=0) for t in person], axis=0, weights=weights).astype(np.float32)


def _prominence(person: list[_Track], shape: tuple[int, int]) -> float:
    """Sum over frames of size x centrality x certainty: false finds are small in at least one."""
    h, w = shape
    total = 0.0
    for face in (f for t in person for f in t.frames.values()):
        x, y = (face.box[0] + face.box[2]) / 2 / w - 0.5, (face.box[1] + face.box[3]) / 2 / h - 0.5
        total += face.height / h * np.exp(-2 * (x * x + y * y)) * min(face.score, 2.0)
    return total


def _describe(person: list[_Track], shape: tuple[int, int]) -> dict[str, float]:
    faces = [f for t in person for f in t.frames.values()]
    boxes = np.array([f.box for f in faces])
    return {
        "frames": len(faces),
        "height": round(float((boxes[:, 3] - boxes[:, 1]).mean()), 1),
        "x": round(float((boxes[:, 0] + boxes[:, 2]).mean() / 2 / shape[1]), 3),
        "y": round(float((boxes[:, 1] + boxes[:, 3]).mean() / 2 / shape[0]), 3),
        "score": round(float(np.mean([f.score for f in faces])), 2),
    }


def _assemble(person: list[_Track], shot: np.ndarray, fps: float, max_gap: int) -> FaceTrack:
    """Fill short gaps inside a shot, then smooth each unbroken run."""
    count = len(shot)
    landmarks = np.full((count, NUM_LANDMARKS, 2), np.nan, np.float32)
    status = np.zeros(count, np.uint8)
    for track in person:
        for i, face in track.frames.items():
            landmarks[i], status[i] = face.landmarks, FOUND
    seen = np.flatnonzero(status == FOUND)
    for a, b in zip(seen[:-1], seen[1:], strict=True):
        if 1 < b - a <= max_gap + 1 and shot[a] == shot[b]:
            t = (np.arange(a + 1, b) - a)[:, None, None] / (b - a)
            landmarks[a + 1 : b] = (1 - t) * landmarks[a] + t * landmarks[b]
            status[a + 1 : b] = FILLED
    align = np.full((count, 2, 3), np.nan, np.float32)
    result = FaceTrack(landmarks, align, status, shot, _identity(person))
    for start, end in result.segments():
        raw = landmarks[start:end].astype(np.float64)
        align[start:end] = similarity(smooth_gaussian(anchors(raw), 0.1 * fps))
        landmarks[start:end] = smooth_polynomial(raw, fps)
    return result


def smooth_gaussian(values: np.ndarray, sigma: float) -> np.ndarray:
    """Centred Gaussian over axis 0, `sigma` in frames: no lag."""
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, sigma, axis=0, mode="nearest") if len(values) > 1 else values


def smooth_polynomial(values: np.ndarray, fps: float) -> np.ndarray:
    """Savitzky-Golay, quadratic over 0.2 s: takes the jitter out and keeps the height of a mouth's opening; no lag."""
    from scipy.signal import savgol_filter

    length = max(3, round(0.2 * fps) | 1)
    return savgol_filter(values, length, 2, axis=0, mode="nearest") if len(values) >= length > 3 else values
