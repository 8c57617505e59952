"""make demo: a made clip and a photo speak with the model that ships. make demo-train: from raw video to a model of one's own.

    python -m tests.demo [--out demo]
    python -m tests.demo --train [--out demo] [--minutes-vae 2] [--minutes-train 5]

The first makes three videos and a report with what is installed; the second takes two made clips through all seven commands.
Each command is shown before it runs and is the one that a user types. The same command again goes on where it was left.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cv2

from stages.artifacts import write_atomic
from tests.made import OTHER_SPEECH, make_clip, photo
from tests.sheet import make_sheet

SECONDS = 6.0
"""Length of each clip."""
VAE_STEPS, VAE_MINUTES = 1500, 2
TRAIN_STEPS, TRAIN_MINUTES = 1500, 5
"""Enough to see the mouth follow the sound; whichever comes first ends the training, so that slow machines end too."""


def shipped(out: Path) -> list[list[str]]:
    """What the model that ships does, as arguments of `difftalk`."""
    person, photo = out / "videos" / "plain.mp4", out / "photo.png"
    chain = [
        ["infer", "--audio", OTHER_SPEECH, "--ref", person, "-o", out / "talking.mp4"],
        ["infer", "--audio", OTHER_SPEECH, "--ref", photo, "-o", out / "photo.mp4"],
        ["infer", "--audio", person, "--ref", person, "-o", out / "self-driven.mp4"],
        ["evaluate", out / "self-driven.mp4", person, "--out", out / "scores"],
    ]
    return [[str(a) for a in command] for command in chain]


def trained(out: Path, minutes_vae: float, minutes_train: float) -> list[list[str]]:
    """The whole chain, as arguments of `difftalk`."""
    videos, work = out / "videos", out / "work"
    person, model = videos / "plain.mp4", work / "denoiser-256"
    vae = ["--preset", "tiny", "--steps", VAE_STEPS, "--max-minutes", minutes_vae]
    train = ["--preset", "tiny", "--steps", TRAIN_STEPS, "--max-minutes", minutes_train]
    chain = [
        ["preprocess", videos, "--out", work],
        ["extract-audio", work],
        ["train-vae", work, *vae],
        ["train", work, *train],
        # Another voice says something that this face never said ...
        ["infer", "--audio", OTHER_SPEECH, "--ref", person, "-o", out / "talking.mp4", "--model", model],
        ["interpolate", out / "talking.mp4", "-o", out / "smooth.mp4"],
        # ... and the face says its own words again, which can be compared with what was there.
        ["infer", "--audio", person, "--ref", person, "-o", out / "self-driven.mp4", "--model", model],
        ["evaluate", out / "self-driven.mp4", person, "--out", out / "scores", "--model", model],
    ]
    return [[str(a) for a in command] for command in chain]


def make_videos(folder: Path) -> None:
    """Two clips of one face in two lights, and its photo; what is already there stays, so that the chain resumes."""
    if not (folder.parent / "photo.png").exists():
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder.parent / "photo.png"), photo()[..., ::-1])
    for variant, view in (("plain", "head"), ("other", "whole")):
        path = folder / f"{variant}.mp4"
        if not path.exists():
            tell(f"making {path}: a photo that speaks")
            with write_atomic(path) as part:
                make_clip(part, seconds=SECONDS, size=384 if view == "head" else 512, variant=variant, view=view)  # type: ignore[arg-type]


def tell(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Exits with the code of the command that failed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--minutes-vae", type=float, default=VAE_MINUTES)
    parser.add_argument("--minutes-train", type=float, default=TRAIN_MINUTES)
    options = parser.parse_args()
    out: Path = options.out
    begin = time.monotonic()
    make_videos(out / "videos")
    chain = trained(out, options.minutes_vae, options.minutes_train) if options.train else shipped(out)
    for command in chain:
        tell(f"\n$ difftalk {shlex.join(command)}")
        started = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "difftalk_cli", *command], cwd=Path.cwd()).returncode
        if code:
            tell(f"difftalk {command[0]} ended with exit code {code}; what was done before is kept in {out}")
            sys.exit(code)
        tell(f"({time.monotonic() - started:.0f} s)")
    rows = [out / "videos" / "plain.mp4", out / "self-driven.mp4", out / "talking.mp4", *([] if options.train else [out / "photo.mp4"])]
    sheet = make_sheet(out / "sheet.png", rows)
    more = f"at twice the frame rate: {out / 'smooth.mp4'}" if options.train else f"a photo that talks: {out / 'photo.mp4'}"
    tell(f"\nDone in {(time.monotonic() - begin) / 60:.1f} minutes.")
    tell(f"The talking video: {out / 'talking.mp4'}; {more}")
    tell(f"At a glance:       {sheet} (rows: the source, the face saying its own words, then other words)")
    tell(f"The report:        {out / 'scores' / 'scores.json'} (the face saying its own words: {out / 'self-driven.mp4'})")


if __name__ == "__main__":
    main()
