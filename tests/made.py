"""The made clip: a photo that a package ships, its mouth and head moved by a speech recording.

    python -m tests.made OUT.mp4 [--seconds 6] [--fps 25] [--size 384] [--variant other] [--view whole]

The photo is scikit-image's astronaut (NASA, public domain), which lies inside its wheel. The lower lip and the chin
slide down with the sound's loudness, uncovering a dark mouth; the mouth widens and rounds with its spectrum; the head
drifts. It is no talking person, but it passes a face tracker, and its mouth depends on its sound.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from stages.media import VideoWriter, read_audio, write_wav
from stages.shapes import SAMPLE_RATE

SPEECH = Path(__file__).parent / "data" / "speech.wav"
OTHER_SPEECH = Path(__file__).parent / "data" / "speech-other.wav"

Variant = Literal["plain", "other"]
View = Literal["head", "whole"]
VIEWS: dict[str, tuple[float, float, float]] = {"head": (107.0, 2.0, 240.0), "whole": (0.0, 0.0, 512.0)}
"""Left, top and side in photo pixels of the square that is shown."""

# Measured on the photo with dlib's 68-point predictor, in photo pixels.
CORNERS = np.array([[203.0, 140.5], [244.0, 141.5]])
INNER_TOP = np.array([[203.0, 140.5], [218.0, 143.0], [223.0, 144.0], [230.0, 143.0], [244.0, 141.5]])
INNER_BOTTOM = np.array([[203.0, 140.5], [210.0, 147.0], [217.0, 150.0], [223.0, 151.0], [229.0, 150.0], [237.0, 147.5], [244.0, 141.5]])
CHIN = np.array([220.0, 178.0])
HEAD, HEAD_RADII = np.array([226.0, 108.0]), np.array([78.0, 98.0])

OPEN_PIXELS = 11.0
"""How far the lower lip goes below where the photo has it, wide open; closed, it goes up to the upper lip."""
QUIET_DB = 10.0
"""Speech whose loudest windows have less power than this does not open the mouth wide; the recordings reach 35."""
INTERIOR = np.array([52.0, 20.0, 20.0])
TONGUE = np.array([150.0, 70.0, 68.0])


def photo() -> np.ndarray:
    """The astronaut: (512, 512, 3) u8."""
    from skimage import data

    return data.astronaut()


def mouth_curves(speech: np.ndarray, frames: int, fps: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Opening in 0..1 and width in -1..1 (rounded to spread) for each frame, from (n,) i16 at 16 kHz: (T,) f64 each."""
    size = SAMPLE_RATE // 20  # 50 ms: about one video frame and its edges
    padded = np.pad(speech.astype(np.float64) / 32768, (size, size))
    centres = size + np.round((np.arange(frames) + 0.5) / float(fps) * SAMPLE_RATE).astype(int)
    starts = np.clip(centres - size // 2, 0, len(padded) - size)
    pieces = padded[starts[:, None] + np.arange(size)] * np.hanning(size)  # (T, size)
    power = np.abs(np.fft.rfft(pieces, axis=1)) ** 2  # (T, size/2 + 1)
    hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    voiced = power[:, (hz > 250) & (hz < 3000)].sum(1)  # vowels; hiss above it closes the mouth
    loud = 10 * np.log10(voiced + 1e-6)
    top = max(np.quantile(loud, 0.97), QUIET_DB)  # silence has no loud part to be measured against
    loud = np.clip((loud - (top - 26)) / 26, 0, 1)
    band = (hz > 300) & (hz < 4000)
    centroid = (power[:, band] * np.log(hz[band])).sum(1) / (power[:, band].sum(1) + 1e-9)
    spoken = loud > 0.3
    width = np.tanh((centroid - np.median(centroid[spoken])) / 0.35) * (loud > 0.05) if spoken.any() else np.zeros(frames)
    return smooth(loud**1.5), smooth(width)


def smooth(x: np.ndarray) -> np.ndarray:
    """Lips have mass: a three-frame binomial mean."""
    return np.convolve(np.pad(x, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")


def head_pose(seconds: float) -> tuple[float, float, float, float]:
    """Right and down in photo pixels, degrees, and scale: slow sines that never repeat together."""

    def wave(hertz: float, phase: float) -> float:
        return float(np.sin(2 * np.pi * hertz * seconds + phase))

    right = 2.2 * wave(0.23, 0.3) + 0.6 * wave(0.71, 1.0)
    down = 1.5 * wave(0.31, 2.0) + 0.6 * wave(0.93, 0.2)
    return right, down, 1.8 * wave(0.19, 1.2) + 0.5 * wave(0.57, 0.0), 1 + 0.012 * wave(0.13, 0.0)


def head_map(grid: np.ndarray, seconds: float) -> np.ndarray:
    """Where each point (H, W, 2) of the moved head comes from; the move fades out around the head."""
    right, down, degrees, scale = head_pose(seconds)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / scale
    still = (grid - HEAD - (right, down)) @ turn.T + HEAD
    distance = np.hypot(*np.moveaxis((grid - HEAD) / HEAD_RADII, -1, 0))
    share = smoothstep((1.75 - distance) / 0.75)[..., None]  # 1 on the head, 0 from 1.75 radii on
    return grid + share * (still - grid)


def mouth_map(points: np.ndarray, opening: float, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each point (H, W, 2) comes from, and how much of it is mouth interior and how deep inside: (H, W) in 0..1.

    The face below the line between the teeth and the lower lip is a sheet that slides over the face above it.
    """
    middle = CORNERS.mean(0)
    offset = points - middle
    near = np.exp(-((offset[..., 0] / 30) ** 2) - ((offset[..., 1] / 18) ** 2))
    x = middle[0] + offset[..., 0] * (1 - 0.14 * width * near)
    y = points[..., 1]
    seam = np.interp(x, INNER_BOTTOM[:, 0], INNER_BOTTOM[:, 1])
    gap = seam - np.interp(x, INNER_TOP[:, 0], INNER_TOP[:, 1])
    across = np.clip((x - CORNERS[0, 0]) / (CORNERS[1, 0] - CORNERS[0, 0]) * 2 - 1, -1, 1)  # -1 and 1 at the corners
    lip = opening * OPEN_PIXELS * (1 - across**2) ** 0.8 - (1 - opening) * gap * 0.97
    moved = seam + lip  # where the lower lip's inner edge now is
    below = y - moved
    # Further down it is the jaw that moves: wider, a little less, and not at all below the neck.
    jaw = np.exp(-(((x - CHIN[0]) / 34) ** 2)) * (opening * OPEN_PIXELS - (1 - opening) * gap.max() * 0.6) * 0.75
    t = smoothstep((below - 7) / 16)  # the lower lip keeps its thickness
    sheet = (lip * (1 - t) + jaw * t) * smoothstep((CHIN[1] + 26 - y) / 34)
    lower = smoothstep(below / 1.2 + 0.5)
    opened = np.clip(lip, 0, None)
    upper_edge = np.clip(y - seam, 0, None)
    interior = smoothstep(upper_edge / 1.2 - 0.2) * (1 - lower) * (opened > 0)
    depth = np.clip(upper_edge / np.maximum(opened, 1e-3), 0, 1)
    source = np.stack([x, np.where(below > 0, y - sheet, np.minimum(y, seam))], axis=-1)
    return source, interior, depth


def smoothstep(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def make_frames(
    speech: np.ndarray, *, frames: int, fps: Fraction = Fraction(25), size: int = 384, variant: Variant = "plain", view: View = "head"
) -> Iterator[np.ndarray]:
    """So many frames, (size, size, 3) u8, for (n,) i16 of speech at 16 kHz, which is silent after its end."""
    opening, width = mouth_curves(speech[: round(frames / fps * SAMPLE_RATE)], frames, fps)
    picture = dress(photo(), variant)
    left, top, side = VIEWS[view]
    axis = (np.arange(size) + 0.5) / size * side - 0.5
    grid = np.stack(np.meshgrid(left + axis, top + axis), axis=-1)  # (size, size, 2) in photo pixels
    for i in range(frames):
        source, interior, depth = mouth_map(head_map(grid, float(i / fps)), opening[i], width[i])
        maps = source.astype(np.float32)
        frame = cv2.remap(picture, maps[..., 0], maps[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        shade = INTERIOR + (TONGUE - INTERIOR) * (smoothstep((depth - 0.45) / 0.5) * 0.6 * opening[i])[..., None]
        frame = frame + interior[..., None] * (shade - frame)
        frame = np.clip(np.rint(frame), 0, 255).astype(np.uint8)
        yield np.ascontiguousarray(frame[:, ::-1]) if variant == "other" else frame


def dress(picture: np.ndarray, variant: Variant) -> np.ndarray:
    """The photo itself, or one in another light, so that a second clip is not the first (it is mirrored later)."""
    if variant == "plain":
        return picture
    warm = (picture / 255.0) ** np.array([0.95, 1.15, 1.35])
    return np.rint(warm * np.array([235.0, 228.0, 232.0])).astype(np.uint8)


def make_clip(
    out: Path, speech: Path = SPEECH, *, seconds: float = 6.0, fps: Fraction = Fraction(25), size: int = 384,
    variant: Variant = "plain", view: View = "head",
) -> Path:  # fmt: skip
    """Write the clip with its sound, no longer than the recording. Raises InputError when the recording cannot be read."""
    samples = read_audio(speech)
    frames = int(min(Fraction(str(seconds)), Fraction(len(samples), SAMPLE_RATE)) * fps)
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        write_wav(sound, samples[: round(frames / fps * SAMPLE_RATE)])
        with VideoWriter(out, fps=fps, size=(size, size), audio=sound) as writer:
            for frame in make_frames(samples, frames=frames, fps=fps, size=size, variant=variant, view=view):
                writer.write(frame)
    return out


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Make a talking clip from a photo and a recording.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--speech", type=Path, default=SPEECH)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--fps", type=Fraction, default=Fraction(25))
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--variant", choices=("plain", "other"), default="plain")
    parser.add_argument("--view", choices=tuple(VIEWS), default="head")
    options = vars(parser.parse_args())
    print(make_clip(options.pop("out"), options.pop("speech"), **options))


if __name__ == "__main__":
    main()
