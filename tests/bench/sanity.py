"""Do the metrics order what everybody can see? Real clips against blurred, shifted, wrongly spoken and frozen copies of themselves.

    python -m tests.bench.sanity CLIP [CLIP ...] --out FOLDER [--seconds 3] [--metrics psnr,ssim,lpips,mouth,identity,jitter,sync]

Each clip gives two stretches of the same length. The first is the truth; its copies are blurred (sigma 1 and 3), late by 1, 3 and 5
frames under the same sound, have the mouths of the second stretch (what the same person says at another time, turned to the pose
and pasted in), or one mouth throughout. Prints the means, and for each rule that must hold in how many clips it does. The same
command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages import evaluate
from stages.artifacts import write_atomic
from stages.errors import InputError
from stages.faces import LOST, FaceTrack, condition_points, crop, feathered, paste, turn_to
from stages.media.audio import read_audio, write_wav
from stages.media.video import VideoReader, VideoWriter
from stages.metrics.scoring import How, find_face
from stages.runtime import Runtime
from stages.shapes import SAMPLE_RATE

RESOLUTION = 512
"""Side of the crops that mouths are pasted from."""
MOST = 512
"""Frames are made smaller, if need be, until their shorter side has no more pixels."""
Rule = tuple[str, tuple[str, ...]]


@dataclass
class Source:
    """A stretch of a clip, and what is said in the stretch after it."""

    frames: list[np.ndarray]
    track: FaceTrack
    """Of both stretches."""
    mouths: list[np.ndarray]
    """Crops of both stretches, (R, R, 3) u8."""


def blur(sigma: float) -> Callable[[Source], Iterator[np.ndarray]]:
    return lambda s: (cv2.GaussianBlur(frame, (0, 0), sigma) for frame in s.frames)


def late(shift: int) -> Callable[[Source], Iterator[np.ndarray]]:
    return lambda s: (s.frames[max(0, i - shift)] for i in range(len(s.frames)))


def mouth_of(choose: Callable[[int, int], int]) -> Callable[[Source], Iterator[np.ndarray]]:
    """Frame i of n gets the mouth of frame choose(i, n)."""

    def make(s: Source) -> Iterator[np.ndarray]:
        points, alpha = condition_points(s.track.align, s.track.landmarks), feathered(RESOLUTION)
        for i, frame in enumerate(s.frames):
            own = choose(i, len(s.frames))
            if s.track.status[[i, own]].min() == LOST:
                yield frame
            else:
                yield paste(frame, turn_to(s.mouths[own], points[own], points[i]), s.track.align[i], alpha)

    return make


COPIES: dict[str, Callable[[Source], Iterator[np.ndarray]]] = {
    "blur-1": blur(1.0),
    "blur-3": blur(3.0),
    "late-1": late(1),
    "late-3": late(3),
    "late-5": late(5),
    "wrong-words": mouth_of(lambda i, n: n + i),
    "frozen": mouth_of(lambda i, n: n + n // 2),
}
PICTURES = ("psnr", "ssim", "lpips_alex", "mouth_psnr", "mouth_ssim", "mouth_lpips_alex")
LOWER = ("lpips_alex", "mouth_lpips_alex", "mouth_landmark_distance", "identity_distance")
RULES: tuple[Rule, ...] = tuple(
    [(name, ("ground_truth", "blur-1", "blur-3")) for name in (*PICTURES, "identity_distance", "mouth_landmark_distance")]
    + [(name, ("ground_truth", "late-1", "late-3")) for name in (*PICTURES, "mouth_landmark_distance", "lip_opening_correlation")]
    + [(name, ("ground_truth", "wrong-words")) for name in (*PICTURES, "mouth_landmark_distance", "lip_opening_correlation")]
    + [(name, ("ground_truth", "frozen")) for name in (*PICTURES, "mouth_landmark_distance", "lip_opening_correlation")]
    + [("lip_opening_correlation", ("blur-1", "wrong-words")), ("lip_opening_correlation", ("blur-1", "frozen"))]
    + [("sync_confidence", ("ground_truth", "wrong-words")), ("jitter", ("ground_truth", "frozen"))]
)
"""Metric, and rows from best to worst (for jitter: from most to least)."""
EXACT: tuple[tuple[str, str, int], ...] = tuple((m, f"late-{k}", k) for m in ("lip_opening_lag", "sync_offset") for k in (1, 3, 5))
"""Metric, row, and by how much it must differ from the ground truth's."""


def smaller(frame: np.ndarray) -> np.ndarray:
    """At most MOST pixels on the shorter side, both even."""
    scale = min(1.0, MOST / min(frame.shape[:2]))
    size = tuple(2 * round(n * scale / 2) for n in frame.shape[1::-1])
    return frame if frame.shape[1::-1] == size else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def write(path: Path, frames: Iterator[np.ndarray] | list[np.ndarray], fps: Any, sound: Path) -> None:
    frames = iter(frames)
    first = next(frames)
    size = first.shape[1::-1]
    with write_atomic(path) as part, VideoWriter(part, fps=fps, size=size, lossless=True, preset="ultrafast", audio=sound) as out:
        for frame in itertools.chain([first], frames):
            out.write(frame)


def make(clip: Path, out: Path, seconds: float) -> None:
    """Truth and copies of one clip, those that are not there yet. Raises InputError without a face."""
    name = f"{clip.stem}.mp4"
    places = {row: out / row / name for row in ("truth", *COPIES)}
    if all(place.exists() for place in places.values()):
        return
    reader = VideoReader(clip)
    frames = [smaller(f) for _, f in zip(range(round(2 * seconds * reader.info.fps)), reader, strict=False)]
    count, fps = len(frames) // 2, reader.info.fps
    sound = out / "sound" / f"{clip.stem}.wav"
    sound.parent.mkdir(parents=True, exist_ok=True)
    samples = read_audio(clip)
    write_wav(sound, samples[: round(count / fps * SAMPLE_RATE)])
    write(out / "both" / name, frames, fps, sound)
    track = find_face(VideoReader(out / "both" / name), How(), lambda amount: None)
    mouths = [crop(f, m, RESOLUTION) if np.isfinite(m).all() else f for f, m in zip(frames, track.align, strict=True)]
    source = Source(frames[:count], track, mouths)
    write(places["truth"], source.frames, fps, sound)
    for row, copy in COPIES.items():
        write(places[row], copy(source), fps, sound)


def holds(metrics: dict[str, dict[str, float]], name: str, rows: tuple[str, ...]) -> bool | None:
    """Whether a metric falls (or rises, where lower is better) along `rows`; None where one of them has none."""
    found = [metrics.get(row, {}).get(name) for row in rows]
    # A mouth that does not move correlates with nothing: worse than any.
    found = [-1.0 if v is None and name == "lip_opening_correlation" and row == "frozen" else v for v, row in zip(found, rows, strict=True)]
    if any(v is None for v in found):
        return None
    sign = -1 if name in LOWER else 1
    return all(sign * a > sign * b for a, b in zip(found, found[1:]))  # type: ignore[operator]


def told(scores: dict[str, Any], labels: dict[str, str]) -> str:
    """Two tables in markdown: means, and rules."""
    names = [n for n in scores["methods"]["ground_truth"] if n not in ("sync_distance", "frame_psnr", "frame_ssim")]
    rows = ["ground_truth", *COPIES, "copy_baseline"]
    lines = [f"| metric | {' | '.join(rows)} |", "|---|" + "---|" * len(rows)]
    for name in names:
        cells = [scores["methods"][labels.get(row, row)].get(name, {}).get("mean") for row in rows]
        lines.append(f"| {name} | " + " | ".join("–" if c is None else f"{c:.4g}" for c in cells) + " |")
    clips: dict[str, dict[str, dict[str, float]]] = {}
    back = {method: row for row, method in labels.items()}
    for row in scores["clips"]:
        clips.setdefault(row["name"], {})[back.get(row["method"], row["method"])] = row.get("metrics", {})
    lines += ["", "| metric | must | holds in |", "|---|---|---|"]
    for name, order in RULES:
        found = [f for metrics in clips.values() if (f := holds(metrics, name, order)) is not None]
        if found:
            lines.append(f"| {name} | {' > '.join(order) if name not in LOWER else ' < '.join(order)} | {sum(found)} of {len(found)} |")
    for name, row, by in EXACT:
        pairs = [(m[row][name], m["ground_truth"][name]) for m in clips.values() if name in m.get(row, {}) and name in m["ground_truth"]]
        if pairs:
            right = sum(abs(a - b - by) <= 1 for a, b in pairs)
            lines.append(f"| {name} | {row} is {by} above ground_truth, within 1 frame | {right} of {len(pairs)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--metrics", default="psnr,ssim,lpips,mouth,identity,jitter,sync")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--syncnet", type=Path)
    o = parser.parse_args()
    for clip in o.clips:
        try:
            make(clip, o.out, o.seconds)
        except InputError as error:
            print(f"left out: {error}")
    first, *others = COPIES
    inputs = evaluate.Inputs(o.out / first, o.out / "truth", {row: o.out / row for row in others}, syncnet=o.syncnet)
    config = evaluate.Config(metrics=o.metrics, rows="ground_truth,copy_baseline")
    report = evaluate.run(config, inputs, o.out / "scores", Runtime(workers=o.workers))
    print(f"{len({row['name'] for row in report.facts['clips']})} clips of up to {o.seconds:g} s\n")
    print(told(report.facts, {first: evaluate.METHOD}))


if __name__ == "__main__":
    main()
