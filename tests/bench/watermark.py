"""Is the mark found again, and only where it is? Real clips, cut into films of 3 s.

    python -m tests.bench.watermark CLIPS [--marked 100] [--clean 200] [--crf 28] [--scale 0.5]

Marked: each film's own mouths get the mark as `infer` gives it, encoded at infer's default, then decoded,
halved and encoded again by x264 at crf 28. Clean: the same films without the mark, halved and encoded alike, and as they are.
`detect` looks at all of them for itself: it finds the faces anew.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from stages import detect
from stages.dubbing.reference import Reference, open_reference
from stages.dubbing.watermark import SIDE, THRESHOLD, Marker
from stages.errors import InputError
from stages.faces import FaceConfig, crop, scale_of, shade
from stages.infer import Config
from stages.media.sources import VIDEO_SUFFIXES
from stages.media.video import VideoReader, VideoWriter
from stages.runtime import Runtime

SECONDS = 3.0


def films(folder: Path) -> Iterator[tuple[Path, Reference, int, int]]:
    """(clip, its face, first frame, frames) of every stretch of 3 s in which the face is seen, one of each clip first."""
    clips = sorted(p for p in [folder, *folder.rglob("*")] if p.suffix.lower() in VIDEO_SUFFIXES)
    later: list[tuple[Path, Reference, int, int]] = []
    for path in clips:
        try:
            reference = open_reference(path, FaceConfig(), Runtime())
        except InputError as error:
            print(f"left out: {error}", flush=True)
            continue
        length = round(SECONDS * float(reference.feed.fps))
        seen = np.isfinite(reference.track.align).all(axis=(1, 2))
        starts = [a for a in range(0, len(seen) - length + 1, length) if seen[a : a + length].mean() > 0.9]
        found = [(path, reference, a, length) for a in starts]
        yield from found[:1]
        later += found[1:]
    yield from later


def marked(frames: list[np.ndarray], align: np.ndarray, fps: Fraction) -> list[np.ndarray]:
    """The frames with their own mouths, marked."""
    marker, out = Marker("lower-face", SIDE), []
    for k, (frame, m) in enumerate(zip(frames, align, strict=True)):
        if not np.isfinite(m).all():
            out.append(frame)
            continue
        out.append(frame.copy())
        shade(out[-1], marker(crop(frame, m, SIDE), scale_of(m) * SIDE, float(k / fps)), m)
    return out


def write(path: Path, frames: list[np.ndarray], fps: Fraction, crf: int) -> Path:
    height, width = frames[0].shape[:2]
    with VideoWriter(path, fps=fps, size=(width, height), crf=crf) as video:
        for frame in frames:
            video.write(frame)
    return path


def smaller(frames: list[np.ndarray], scale: float) -> list[np.ndarray]:
    height, width = (max(2, round(n * scale / 2) * 2) for n in frames[0].shape[:2])
    return [cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--marked", type=int, default=100)
    parser.add_argument("--clean", type=int, default=200)
    parser.add_argument("--crf", type=int, default=28)
    parser.add_argument("--scale", type=float, default=0.5)
    o = parser.parse_args()
    scores: dict[str, list[float]] = {"marked": [], "clean": []}
    look = lambda path: detect.run(detect.Config(people=1), path, Runtime()).facts["watermark"]["score"]  # noqa: E731
    with tempfile.TemporaryDirectory(prefix="difftalk-") as folder:
        place = Path(folder) / "film.mp4"
        for path, reference, first, length in films(o.clips):
            if len(scores["marked"]) >= o.marked and len(scores["clean"]) >= o.clean:
                break
            fps = reference.feed.fps
            frames = [f for k, f in enumerate(reference.feed.once()) if first <= k < first + length]
            tries = [("clean", frames, Config().crf), ("clean", smaller(frames, o.scale), o.crf)]
            if len(scores["marked"]) < o.marked:
                write(place, marked(frames, reference.track.align[first : first + length], fps), fps, Config().crf)
                tries.append(("marked", smaller(list(VideoReader(place)), o.scale), o.crf))
            for kind, shown, crf in tries:
                if kind == "clean" and len(scores["clean"]) >= o.clean:
                    continue
                found = look(write(place, shown, fps, crf))
                scores[kind].append(-np.inf if found is None else found)
                wrong = (found is not None and found >= THRESHOLD) != (kind == "marked")
                print(f"{kind:7} {found} {path.name} {first}{'   <-- wrong' if wrong else ''}", flush=True)
    for kind, found in scores.items():
        hits = sum(s >= THRESHOLD for s in found)
        print(f"{kind}: {hits} of {len(found)} films said to be marked; scores {min(found):.1f} to {max(found):.1f}")


if __name__ == "__main__":
    main()
