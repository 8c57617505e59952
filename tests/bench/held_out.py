"""How a trained denoiser does on people it never saw, straight from the latent cache: no video, no tracking.

    python -m tests.bench.held_out MODEL WORK [--side val] [--frames 64] [--steps 10]

For each held-out clip, `--frames` frames in a row are generated from the clip's own sound; the references are far frames in a
like pose (and with the lips that are heard), turned to the frame's. In the part of the crop that holds the mouth: PSNR and
LPIPS against the truth, and how the lips' opening (dlib on the generated crop) correlates with the truth's. More rows say what
is possible and what is trivial: the sound of another clip, the true lips in place of heard ones, the first stage's
reconstruction, what the model's reference shows, and a copy of a mouth in a like pose.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from stages.artifacts import Artifact, read_artifact
from stages.diffusion.render import Renderer, SampleConfig
from stages.dubbing.lips import SMOOTH_SECONDS, as_told
from stages.dubbing.model import load_model
from stages.faces import choose_references, condition_points, habits, lip_shape, mouth_points, turn_to
from stages.faces.align import apply
from stages.faces.detect import DlibFinder
from stages.faces.track import smooth_gaussian
from stages.metrics.lpips import load_lpips
from stages.metrics.mouth import correlation, lip_opening
from stages.metrics.quality import psnr
from stages.models.denoiser import Condition
from stages.runtime import Runtime
from stages.training.crops import split_clips
from stages.training.denoising import gather_windows
from stages.training.latents import REFERENCE_GAP, far_frame
from stages.training.order import generator
from stages.weights import locate

MOUTH = (slice(0.52, 0.92), slice(0.26, 0.74))
"""Rows and columns of a canonical crop that hold the mouth, as shares of its side."""


@dataclass
class Scores:
    """Means over clips."""

    psnr: float
    lpips: float
    opening: float

    def __str__(self) -> str:
        return f"{self.psnr:8.2f} {self.lpips:8.4f} {self.opening:8.3f}"


def mouth_of(crops: np.ndarray) -> np.ndarray:
    """(T, R, R, 3) -> the mouth's part."""
    side = crops.shape[1]
    rows, columns = (slice(int(s.start * side), int(s.stop * side)) for s in MOUTH)
    return np.ascontiguousarray(crops[:, rows, columns])


class LipReader:
    """Lip opening in canonical crops: the face's place is known, so no detector is asked."""

    def __init__(self) -> None:
        self.finder = DlibFinder(locate)

    def __call__(self, crops: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """(T, R, R, 3) u8 and the true crops' landmarks (T, 68, 2) in pixels of the crop -> (T,) openings."""
        found = []
        for crop, points in zip(crops, landmarks, strict=True):
            low, high = points.min(0), points.max(0)
            width = high[0] - low[0]
            box = (float(low[0]), float(high[1] - 1.1 * width), float(high[0]), float(high[1] + 0.02 * width))
            shape = self.finder._landmarks(crop, self.finder._dlib.rectangle(*(round(v) for v in box)))
            found.append(lip_opening(shape))
        return np.array(found)


@dataclass
class Case:
    """Frames of a held-out clip and all that drawing them needs."""

    truth: np.ndarray
    """(T, R, R, 3) u8."""
    references: np.ndarray
    """(T, R, R, 3) u8."""
    points: np.ndarray
    """(T, 39, 2)."""
    windows: np.ndarray
    """(T, 8, 16, F)."""
    lips: np.ndarray
    """(T, L): the lips to draw."""
    pixels: np.ndarray
    """(T, 68, 2): the true landmarks in pixels of the crop."""

    def cut(self, frames: int) -> dict[str, np.ndarray]:
        """The fields of the first `frames`."""
        return {name: value[:frames] for name, value in vars(self).items()}


Sound = Literal["own", "wrong", "true lips", "copy"]


@torch.no_grad()
def cases(
    renderer: Renderer, work: Artifact, features: Artifact, *, side: str, frames: int, matched: bool = True, sound: Sound = "own"
) -> list[Case]:
    """Frames from the middle of each clip; not `matched`: one far reference for all of a clip.

    `sound`: the clip's own or another's; "true lips" are told instead of heard; "copy" has references without regard to lips.
    """
    found, clips, model = [], split_clips(work, side), renderer.denoiser
    for number, clip in enumerate(clips):
        crops = clip.array("crops.npy")
        count = min(frames, len(crops))
        place = slice((len(crops) - count) // 2, (len(crops) - count) // 2 + count)
        align, source = np.asarray(clip.array("align.npy")), np.asarray(clip.array("landmarks.npy"))
        pixels = np.stack([apply(m, p) for m, p in zip(align[place], source[place], strict=True)]) * renderer.resolution
        every, mouths, shapes = condition_points(align, source), mouth_points(align, source), lip_shape(align, source)
        other = features.clips[clips[(number + (sound == "wrong")) % len(clips)].id]
        windows = gather_windows(other.array("audio.npy"), np.asarray(other.array("neighbours.npy")))
        windows = np.resize(windows, (len(crops), *windows.shape[1:]))[place]
        lips = shapes[place]
        if model.lips and sound != "true lips":
            heard = model.listen(torch.from_numpy(windows).to(renderer.device, renderer.dtype)).float().cpu().numpy()
            lips = as_told(habits(shapes), smooth_gaussian(heard, 25 * SMOOTH_SECONDS))
        told = lips if model.lips and sound != "copy" else None
        gap, usable, order = min(REFERENCE_GAP, len(crops) // 3), np.ones(len(crops), bool), np.arange(place.start, place.stop)
        far = choose_references(every, usable, gap, shapes, order, told)
        if not matched:
            far[:] = far_frame(generator(0, len(crops)), len(crops), place.start + count // 2)
        shown = np.asarray(crops)[far]
        if matched:
            wanted = [()] * count if told is None else [(mouths[f], shape) for f, shape in zip(far, told, strict=True)]
            pairs = zip(shown, far, order, wanted, strict=True)
            shown = np.stack([turn_to(crop, every[f], every[k], *lip) for crop, f, k, lip in pairs])
        found.append(Case(np.asarray(crops[place]), shown, every[place], windows, lips.astype(np.float32), pixels))
    return found


def draw(renderer: Renderer, case: Case, steps: int, sampler: str = "ddim", batch: int = 8, **more: float) -> np.ndarray:
    """(T, R, R, 3) u8."""
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, *renderer.shape), np.float32)).to(renderer.device)
    made = []
    for i in range(0, len(case.truth), batch):
        at = slice(i, i + batch)
        whole = renderer.encode_masked(renderer.pictures(case.truth[at]))
        z_r, lost = renderer.encode_reference(renderer.pictures(case.references[at]))
        condition = Condition(
            masked=renderer.crop(whole),
            reference=z_r,
            audio=torch.from_numpy(case.windows[at]).to(renderer.device),
            landmarks=torch.from_numpy(case.points[at]).to(renderer.device),
            lips=torch.from_numpy(case.lips[at]).to(renderer.device) if renderer.denoiser.lips else None,
        )
        config = SampleConfig(steps=steps, sampler=sampler, **more)
        z = renderer.generate(noise.expand(len(whole), -1, -1, -1), condition, config)
        made.append(renderer.compose(case.truth[at], renderer.decode(whole, z, lost)))
    return np.concatenate(made)


def judge(held_out: list[Case], made: list[np.ndarray]) -> Scores:
    """Means over clips."""
    lpips, reader, rows = load_lpips("alex", Runtime()), LipReader(), []
    for case, shown in zip(held_out, made, strict=True):
        a, b = mouth_of(shown), mouth_of(case.truth)
        quality = float(np.mean([min(psnr(x, y), 100.0) for x, y in zip(a, b, strict=True)]))
        distance = float(np.concatenate([lpips.frames(a[i : i + 16], b[i : i + 16]) for i in range(0, len(a), 16)]).mean())
        rows.append((quality, distance, correlation(reader(shown, case.pixels), reader(case.truth, case.pixels))))
    return Scores(*(float(v) for v in np.nanmean(rows, axis=0)))


def evaluate(
    model: Path, work: Artifact, features: Artifact, *, side: str, frames: int, steps: int, device: str = "cpu", matched: bool = True
) -> dict[str, Scores]:
    """Scores of the model, with its own sound and another's, of its first stage alone, and of showing the reference's mouth."""
    renderer, _, _ = load_model(model, Runtime(device=device))

    def of(sound: Sound) -> list[Case]:
        return cases(renderer, work, features, side=side, frames=frames, matched=matched, sound=sound)

    held_out, copied, rebuilt = of("own"), of("copy"), []
    for case in held_out:
        with torch.no_grad():
            pictures = renderer.pictures(case.truth)
            again = torch.cat([renderer.first_stage.decode(renderer.encode(p[None])) for p in pictures])
        rebuilt.append(renderer.compose(case.truth, renderer.show(again)))
    shown = {
        "generated": [draw(renderer, c, steps) for c in held_out],
        "wrong sound": [draw(renderer, c, steps) for c in of("wrong")],
        "true lips": [draw(renderer, c, steps) for c in of("true lips")] if renderer.denoiser.lips else [],
        "first stage": rebuilt,
        "reference": [renderer.compose(c.truth, c.references) for c in held_out],
        "copy": [renderer.compose(c.truth, c.references) for c in copied],
    }
    return {name: judge(held_out, made) for name, made in shown.items() if made}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--side", default="val")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    o = parser.parse_args()
    work, features = read_artifact(o.work, "clips"), read_artifact(o.features or o.work / "features", "features")
    scores = evaluate(o.model, work, features, side=o.side, frames=o.frames, steps=o.steps, device=o.device)
    print(f"{'':14} {'PSNR':>8} {'LPIPS':>8} {'opening':>8}")
    for name, row in scores.items():
        print(f"{name:14} {row}")
    print(json.dumps({k: vars(v) for k, v in scores.items()}))


if __name__ == "__main__":
    main()
