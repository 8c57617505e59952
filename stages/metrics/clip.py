"""One clip of one method against its truth: every metric that was asked for, fed frame by frame, with bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stages.faces import LOST, apply, crop
from stages.faces.detect import Face, box_around
from stages.metrics import motion
from stages.metrics.motion import Motion
from stages.metrics.mouth import OPEN_RATIO, correlation, lag, landmark_distance, lip_opening, mouth_ratio, mouth_square
from stages.metrics.pairs import resize_to
from stages.metrics.scorer import CROP, FRAME, MOUTH, PICTURE_METRICS, Scorer, picture_names

if TYPE_CHECKING:
    from stages.faces import FaceTrack
    from stages.faces.detect import FaceFinder
    from stages.metrics.heard import SyncMeter
    from stages.metrics.lpips import Lpips
    from stages.metrics.sync import SyncScore

IDENTITY_FRAMES = 16
"""Frames of a clip whose descriptors are averaged, spread evenly: each takes 0.08 s. Fewer, and expressions are measured, not faces."""
STRIP_FRAMES, STRIP_SIDE = 8, 160
"""Frames shown side by side in the report, and their side in pixels."""
SERIES = ("mouth_landmark_distance", "opening", "opening_true", "open_mouth", "identity_distance", "heat", "heat_true", "flicker")
"""Columns of the table beside the pictures'."""
MEANS = ("mouth_landmark_distance", "flicker")
"""Results that are the mean of a column of the same name."""


@dataclass
class Tools:
    """What a clip is measured with."""

    lpips: Mapping[str, Lpips] = field(default_factory=dict)
    finder: FaceFinder | None = None
    meter: SyncMeter | None = None
    known: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    """What was found in the true film: (points or descriptor, frame) -> the finding. Other methods need it again."""


class ClipScorer:
    """Feed (generated, true) frames in order with `add`, then ask `metrics`, `table`, `motion.maps` and `strip`.

    `frames` says how many will about come, if not as many as the track has: those that are looked at now and then are spread over them.
    `every`: see Scorer.
    """

    def __init__(
        self,
        chosen: Sequence[str],
        track: FaceTrack,
        tools: Tools,
        *,
        resolution: int,
        mouth_resolution: int,
        every: Mapping[str, int] | None = None,
        frames: int | None = None,
    ):
        self.chosen, self.track, self.tools = tuple(chosen), track, tools
        self.resolution, self.mouth_resolution = resolution, mouth_resolution
        pictures = [name for name in chosen if name in PICTURE_METRICS]
        self.scorer = Scorer(pictures, tools.lpips, every)
        self.columns = (*picture_names(pictures), *SERIES)
        self.motion = Motion(resolution)
        self.rows: list[dict[str, float]] = []
        seen = np.flatnonzero(track.status[:frames] != LOST)
        self._identified = set(_spread(seen, IDENTITY_FRAMES)) if "identity" in chosen else set()
        self._shown = set(_spread(seen, STRIP_FRAMES))
        self._strip: list[np.ndarray] = []
        self._descriptors: list[tuple[np.ndarray, np.ndarray]] = []
        self._last_face = -2

    @property
    def faces(self) -> int:
        """Frames so far that show the face."""
        return int((self.track.status[: len(self.rows)] != LOST).sum())

    def add(self, fake: np.ndarray, true: np.ndarray) -> None:
        """The next pair of frames (H, W, 3) u8; the same array twice is the truth itself."""
        i = len(self.rows)
        fake = fake if fake is true else resize_to(fake, true)
        found, row = self.pictures(fake, true, i), {}
        self.rows.append(row)
        self.scorer.add(found, row)
        if CROP not in found:
            self._meet(fake, None, None)
            return
        a, b = found[CROP]
        if "jitter" in self.chosen:
            row |= self.motion.add(a, b, self._joined(i))
        points = self._mouths(a, b, i, row)
        self._meet(fake, a, points)
        if i in self._identified:
            row["identity_distance"] = self._identity(fake, true, i)
        if i in self._shown:
            self._strip.append(np.concatenate([cv2.resize(x, (STRIP_SIDE,) * 2, interpolation=cv2.INTER_AREA) for x in (b, a)]))
        self._last_face = i

    def pictures(self, fake: np.ndarray, true: np.ndarray, i: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The pictures to compare of one pair of frames: whole, face and mouth, each cut by the truth's face."""
        found, align = {FRAME: (fake, true)}, self.track.align[i]
        if np.isfinite(align).all():
            square = mouth_square(self.track.landmarks[i])
            for prefix, matrix, side in ((CROP, align, self.resolution), (MOUTH, square, self.mouth_resolution)):
                shown = crop(true, matrix, side)
                found[prefix] = (shown if fake is true else crop(fake, matrix, side)), shown
        return found

    def _joined(self, i: int) -> bool:
        return self._last_face == i - 1 and bool(self.track.shot[i] == self.track.shot[i - 1])

    def _mouths(self, a: np.ndarray, b: np.ndarray, i: int, row: dict[str, float]) -> np.ndarray | None:
        """Landmarks of both mouths, read in the crops by the same tool from the same box; returns the generated one's."""
        if self.tools.finder is None or not {"mouth", "sync"} & set(self.chosen):
            return None
        tracked = apply(self.track.align[i], self.track.landmarks[i]) * self.resolution - 0.5
        box = box_around(tracked)
        if "mouth" not in self.chosen and a is not b:
            return self.tools.finder.points(a, box)
        truth = self._once("points", i, lambda finder: finder.points(b, box))
        points = truth if a is b else self.tools.finder.points(a, box)
        if "mouth" not in self.chosen:
            return points
        row["mouth_landmark_distance"] = float(landmark_distance(points, truth))
        row["opening"], row["opening_true"] = float(lip_opening(points)), float(lip_opening(truth))
        row["open_mouth"] = float(mouth_ratio(points) > OPEN_RATIO)
        return points

    def _meet(self, frame: np.ndarray, picture: np.ndarray | None, points: np.ndarray | None) -> None:
        if self.tools.meter:
            self.tools.meter.add(frame, picture, points)

    def _identity(self, fake: np.ndarray, true: np.ndarray, i: int) -> float:
        """Remembers the descriptors of both frames; returns how far they are apart."""
        points = self.track.landmarks[i]
        face = Face(box_around(points), 1.0, points)
        theirs = self._once("descriptor", i, lambda finder: finder.embed(true, face))
        assert self.tools.finder
        mine = theirs if fake is true else self.tools.finder.embed(fake, face)
        self._descriptors.append((mine, theirs))
        return float(np.linalg.norm(mine - theirs))

    def _once(self, what: str, i: int, find: Callable[[FaceFinder], np.ndarray]) -> np.ndarray:
        """`find` in the true film, unless another method's score asked for the same."""
        assert self.tools.finder
        if (what, i) not in self.tools.known:
            self.tools.known[what, i] = find(self.tools.finder)
        return self.tools.known[what, i]

    # -- at the end

    def table(self) -> np.ndarray:
        """(T, M) f32 with `columns`; NaN where a frame has no such figure."""
        self.scorer.finish()
        return np.array([[row.get(name, np.nan) for name in self.columns] for row in self.rows], np.float32).reshape(-1, len(self.columns))

    def metrics(self, sync: SyncScore | None) -> dict[str, float]:
        """The clip's results by name; what could not be told is left out."""
        table = self.table().astype(np.float64)
        column = {name: table[:, k] for k, name in enumerate(self.columns)}
        found = {name: _mean(column[name]) for name in (*self.scorer.names, *MEANS)}
        if "mouth" in self.chosen:
            found["lip_opening_correlation"] = correlation(column["opening"], column["opening_true"])
            found["lip_opening_lag"] = lag(column["opening"], column["opening_true"])
            found["open_mouth_share"] = _mean(column["open_mouth"])
        if self._descriptors:
            mine, theirs = (np.mean(side, 0) for side in zip(*self._descriptors, strict=True))
            found["identity_distance"] = float(np.linalg.norm(mine - theirs))
        if "jitter" in self.chosen:
            found["jitter"] = motion.jitter(column["heat"], column["heat_true"])
        if sync:
            found |= {"sync_offset": sync.offset, "sync_confidence": sync.confidence, "sync_distance": sync.distance}
        return {name: value for name, value in found.items() if np.isfinite(value)}

    def strip(self) -> np.ndarray:
        """True frames above generated ones, face crops side by side: (2 S, n S, 3) u8."""
        return np.concatenate(self._strip, axis=1) if self._strip else np.zeros((2 * STRIP_SIDE, STRIP_SIDE, 3), np.uint8)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _spread(frames: np.ndarray, count: int) -> list[int]:
    """At most `count` of the frames, evenly spread, not at the very ends."""
    if not len(frames):
        return []
    at = (np.arange(count) + 0.5) / count * len(frames)
    return sorted({int(frames[min(int(k), len(frames) - 1)]) for k in at})

