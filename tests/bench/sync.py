"""Do picture and sound stay together? A click in the recording, a flash in the film, and how far apart they are in the result.

    python -m tests.bench.sync [--rates 24000/1001 24 25 30000/1001 30 50 60] [--seconds 4] [--model MODEL]
    python -m tests.bench.sync --rates 30000/1001 --seconds 600

The film is played forth and back below the recording, so one flash in it becomes many in the result; the recording clicks at
each. The face is seen in the first second and a half only: other frames pass through, so that ten minutes take no hour.
Offsets are those of the written file: where its decoder shows the flash, by the packets' own times, and where its sound clicks.
"""

from __future__ import annotations

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np

from stages import infer
from stages.media import ffmpeg
from stages.media.audio import read_audio, write_wav
from stages.media.feed import pingpong
from stages.media.video import VideoReader, VideoWriter
from stages.runtime import Runtime
from stages.shapes import SAMPLE_RATE
from tests.made import make_clip
from tests.small import make_model

SEEN_SECONDS, FILM_SECONDS, FLASH_SECONDS = 1.5, 12.0, 9.0
CLICK = 80
"""Samples."""


def make(folder: Path, fps: Fraction, seconds: float) -> tuple[Path, Path, np.ndarray]:
    """The film, the recording, and the seconds of its clicks."""
    count = min(round(FILM_SECONDS * fps), max(round(0.6 * seconds * fps), 8))
    flash = int(count * FLASH_SECONDS / FILM_SECONDS)
    faces = list(VideoReader(make_clip(folder / "face.mp4", fps=fps, size=320), frames=round(SEEN_SECONDS * fps)))
    with VideoWriter(folder / "film.mp4", fps=fps, size=(320, 320)) as out:
        for k in range(count):
            frame = faces[k].copy() if k < len(faces) else np.full((320, 320, 3), 30, np.uint8)
            frame[:40] = 255 if k == flash else 20
            out.write(frame)
    sound = np.zeros(round(seconds * SAMPLE_RATE), np.int16)
    moments = np.flatnonzero(pingpong(count, round(seconds * fps)) == flash) / float(fps)
    for moment in moments:
        at = round(moment * SAMPLE_RATE)
        sound[at : at + CLICK] = 20_000
    write_wav(folder / "clicks.wav", sound)
    return folder / "film.mp4", folder / "clicks.wav", moments


def shown_at(video: Path) -> np.ndarray:
    """Seconds at which each frame is shown, by the packets' own times, in order: (T,)."""
    listed, _, _ = ffmpeg.run(["-v", "error", "-i", str(video), "-map", "0:v", "-c", "copy", "-copyts", "-f", "framecrc", "-"])
    lines = listed.decode().splitlines()
    base = Fraction(next(line for line in lines if line.startswith("#tb")).split(":")[1].strip())
    return np.sort([float(int(line.split(",")[2]) * base) for line in lines if not line.startswith("#")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="*", default=["24000/1001", "24", "25", "30000/1001", "30", "50", "60"])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--model", type=Path)
    o = parser.parse_args()
    print(f"{'fps':>12} {'seconds':>8} {'flashes':>8} {'worst offset, frames':>22}")
    for rate in o.rates:
        with tempfile.TemporaryDirectory(prefix="difftalk-") as folder:
            root, fps = Path(folder), Fraction(rate)
            film, clicks, moments = make(root, fps, o.seconds)
            model = o.model or make_model(root / "model", still=True)
            infer.run(infer.Config(steps=1), infer.Inputs(clicks, film, model), root / "out.mp4", Runtime())
            flashes = shown_at(root / "out.mp4")[[i for i, f in enumerate(VideoReader(root / "out.mp4")) if f[:40].mean() > 150]]
            loud = np.flatnonzero(np.abs(read_audio(root / "out.mp4")) > 5000)
            heard = loud[np.r_[True, np.diff(loud) > 10 * CLICK]] / SAMPLE_RATE
            assert len(flashes) == len(heard) == len(moments), (len(flashes), len(heard), len(moments))
            worst = float(np.abs(flashes - heard).max() * fps)
            print(f"{rate:>12} {o.seconds:8.0f} {len(flashes):8} {worst:22.3f}", flush=True)


if __name__ == "__main__":
    main()
