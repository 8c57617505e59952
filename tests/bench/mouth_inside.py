"""Makes the mouth's inside that ships, and tells how near it comes to people that it was not made from.

    python -m tests.bench.mouth_inside WORK [--out stages/faces/mouth-inside/inside.safetensors] [--sheet inside.png]

WORK is a clips artifact. Its train side is learned from: up to 80 frames of each clip with open lips, each clip weighted by
the root of their number. Of the val side: the root mean square error between the lips, in grey levels, beside that of skin at
half its light. The sheet shows it for gaps of 0.06 to 0.25 half-sides across and for three widths of the mouth down.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from stages.artifacts import Clip, read_artifact
from stages.faces import lip_shape, mouth_points
from stages.faces.inside import BUNDLED, HEIGHT, LEAST_OPEN, WIDTH, fit, look_inside, seen, skin
from stages.training.crops import split_clips

FRAMES = 80
LEAST = 5
"""Open frames that a clip must have."""


def gather(clip: Clip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Insides, colours of skin and lips of a clip's open frames."""
    place = np.asarray(clip.array("align.npy")), np.asarray(clip.array("landmarks.npy"))
    shapes, mouths, crops = lip_shape(*place), mouth_points(*place), clip.array("crops.npy")
    opened = np.flatnonzero(shapes[:, 0] > LEAST_OPEN)
    opened = opened[np.linspace(0, len(opened) - 1, min(FRAMES, len(opened))).round().astype(int)]
    if len(opened) < LEAST:
        return np.zeros((0, HEIGHT, WIDTH, 3), np.uint8), np.zeros((0, 3)), np.zeros((0, 4))
    pictures = [np.asarray(crops[k]) for k in opened]
    insides = [look_inside(p, mouths[k]) for p, k in zip(pictures, opened, strict=True)]
    return np.stack(insides), np.stack([skin(p) for p in pictures]), shapes[opened]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--without", nargs="*", default=[], help="words in the names of clips to leave out of both sides")
    o = parser.parse_args()
    work = read_artifact(o.work, "clips")
    sides = {
        side: [gather(c) for c in split_clips(work, side) if not any(w in c.id for w in o.without)] for side in ("train", "val")
    }
    learned = [found for found in sides["train"] if len(found[0])]
    weights = np.concatenate([np.full(len(x), len(x) ** -0.5) for x, _, _ in learned])
    inside = fit(*(np.concatenate(arrays) for arrays in zip(*learned, strict=True)), weights)
    print(f"{len(learned)} clips, {sum(len(x) for x, _, _ in learned)} frames")
    for insides, skins, shapes in sides["val"]:
        if len(insides):
            shown = seen(shapes, skins, inside)
            off, flat = (np.sqrt(np.square(x - insides).mean()) for x in (shown, skins[:, None, None] / 2))
            print(f"val: off by {off:.1f}, skin at half its light by {flat:.1f} ({len(insides)} frames)")
    save_file({"inside": inside.astype(np.float16)}, o.out)
    o.out.chmod(0o644)  # save_file leaves it readable by its owner only
    if o.sheet:
        lips = [[(gap, width, 0, 0) for gap in (0.06, 0.09, 0.13, 0.18, 0.25)] for width in (0.42, 0.5, 0.58)]
        shown = seen(np.array(lips), np.array((200, 150, 130)), inside)
        rows = [np.concatenate([cv2.resize(p, (192, 96), interpolation=cv2.INTER_CUBIC) for p in row], axis=1) for row in shown]
        Image.fromarray(np.clip(np.concatenate(rows), 0, 255).astype(np.uint8)).save(o.sheet)


if __name__ == "__main__":
    main()
