"""What is behind lips that the reference does not show open: teeth and dark, as people's usually look.

A mouth that is warped wider open shows more of what was between its lips: teeth, if they were there, but of closed lips only
lips, drawn out like rubber. There the inside is painted: a picture between the inner lips' contours, by least squares from mouths
that were open that far (a mean of many people's, so nobody's teeth), in the light of the person's cheeks.
"""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np

from stages.errors import WeightsError
from stages.faces.mask import smoothstep

HEIGHT, WIDTH = 16, 32
"""Of the picture: from the upper to the lower lip, from corner to corner."""
SHOWN_BY_WARPING = 2.0
"""A gap this many times the reference's own still looks right when it is warped;"""
ONSET = 0.01, 0.03
"""crop half-sides beyond that at which painting begins, and over which it becomes full."""
LEAST_OPEN = 0.06
"""Half-sides of gap below which landmarks see more lip than inside: nothing is learned there, and narrower gaps look like this."""
DARK = 8.0
"""Grey levels that count as dark: the picture is a mean of logarithms, as of light that is shut out, so that teeth here and dark
there do not make haze."""
EDGE = 0.6
"""Deviation of the Gaussian, in pixels of a crop of 256, by which the painting's edge is softened."""
SKIN = slice(132 / 256, 160 / 256), (slice(66 / 256, 90 / 256), slice(166 / 256, 190 / 256))
"""Rows and columns of the crop where cheeks are, left and right."""
INNER_TOP, INNER_BOTTOM = [12, 13, 14, 15, 16], [12, 19, 18, 17, 16]
"""Contours of the inner lips, from corner to corner, among the 25 points of mouth and chin."""
BUNDLED = Path(__file__).parent / "mouth-inside" / "inside.safetensors"
"""The weights that ship; MODEL_CARD.md beside them tells how they were made."""


def features(shapes: np.ndarray) -> np.ndarray:
    """What the inside depends on, of lips (..., 4): (..., 5)."""
    gap, width = np.maximum(shapes[..., 0], LEAST_OPEN), shapes[..., 1]
    return np.stack([np.ones_like(gap), gap, gap * gap, width, gap * width], -1)


def skin(crop: np.ndarray) -> np.ndarray:
    """The colour of the cheeks in a crop (R, R, 3) u8: (3,) f32."""
    rows, sides = SKIN
    side = len(crop)
    at = slice(round(rows.start * side), round(rows.stop * side))
    cheeks = [crop[at, round(s.start * side) : round(s.stop * side)].reshape(-1, 3) for s in sides]
    return np.median(np.concatenate(cheeks), axis=0).astype(np.float32)


def look_inside(crop: np.ndarray, mouth: np.ndarray) -> np.ndarray:
    """What is between the lips of a crop (R, R, 3) u8 with mouth and chin (25, 2): (HEIGHT, WIDTH, 3) u8."""
    corner, along, across = _axes(mouth)
    u, v = (np.arange(WIDTH) + 0.5) / WIDTH, (np.arange(HEIGHT) + 0.5) / HEIGHT
    top, bottom = _contours(mouth, u)
    places = corner + u[None, :, None] * along + (top + v[:, None] * (bottom - top))[..., None] * across  # (h, w, 2)
    pixels = ((places + 1) * len(crop) / 2 - 0.5).astype(np.float32)
    return cv2.remap(crop, pixels[..., 0], pixels[..., 1], cv2.INTER_LINEAR)


def fit(insides: np.ndarray, skins: np.ndarray, shapes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Least squares from insides (N, HEIGHT, WIDTH, 3) u8, colours of skin (N, 3), lips (N, 4) and weights (N,), to what `paint`
    takes: (5, HEIGHT, WIDTH, 3) f32."""
    x = features(shapes) * np.sqrt(weights)[:, None]
    y = np.log(np.maximum(insides, DARK) / np.maximum(skins, DARK)[:, None, None])
    y = y.reshape(len(x), -1) * np.sqrt(weights)[:, None]
    ridge = np.diag([0, 1e-3, 1e-3, 1e-2, 1e-2]) * weights.sum() * 1e-2  # few mouths are narrow and wide open
    return np.linalg.solve(x.T @ x + ridge, x.T @ y).reshape(-1, HEIGHT, WIDTH, 3).astype(np.float32)


def seen(shapes: np.ndarray, skins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The inside of mouths with lips (..., 4) and skin (..., 3), by fit's `weights`: (..., HEIGHT, WIDTH, 3) f32, grey levels."""
    light = np.exp(np.einsum("...f,fhwc->...hwc", features(shapes), weights))
    return (light * np.maximum(skins, DARK)[..., None, None, :]).astype(np.float32)


def share(own: np.ndarray, wanted: np.ndarray) -> float:
    """How far the inside is to be painted when lips `own` (4,) are warped to `wanted` (4,): 0 to 1."""
    return float(smoothstep((wanted[0] - SHOWN_BY_WARPING * own[0] - ONSET[0]) / ONSET[1]))


def paint(
    picture: np.ndarray, mouth: np.ndarray, shape: np.ndarray, skin: np.ndarray, share: float, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A crop (R, R, 3) u8 with the inside of its mouth (mouth and chin at (25, 2), lips `shape` (4,)) painted, and how far each
    pixel was: (R, R) f32. `weights` (5, HEIGHT, WIDTH, 3) are fit's."""
    side = len(picture)
    look = seen(shape, skin, weights)
    corner, along, across = _axes(mouth)
    at = (np.arange(side) + 0.5) / side * 2 - 1
    places = np.stack(np.meshgrid(at, at), -1) - corner  # (R, R, 2)
    u = places @ along / max(float(along @ along), 1e-9)
    inside = (u > 0) & (u < 1)
    top, bottom = _contours(mouth, u[inside])
    v = np.full(u.shape, -1.0)
    v[inside] = (places[inside] @ across - top) / np.maximum(bottom - top, 1e-6)
    alpha = (inside & (v > 0) & (v < 1)).astype(np.float32)
    alpha = share * cv2.GaussianBlur(alpha, (0, 0), EDGE * side / 256)
    found = cv2.remap(
        look, (u * WIDTH - 0.5).astype(np.float32), (v * HEIGHT - 0.5).astype(np.float32),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    mixed = picture + alpha[..., None] * (found - picture)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), alpha


@functools.lru_cache(maxsize=1)
def load_inside(path: Path = BUNDLED) -> np.ndarray:
    """Weights (5, HEIGHT, WIDTH, 3) f32. Raises WeightsError for a file that does not hold them."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weights = load_file(path)["inside"].astype(np.float32)
        if weights.shape != (5, HEIGHT, WIDTH, 3):
            raise KeyError(f"shape {weights.shape}")
    except (OSError, SafetensorError, KeyError) as error:
        raise WeightsError(f"{path}: not the weights of the mouth's inside ({error}); install difftalk again") from error
    return weights


def _axes(mouth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inner lips' left corner (2,), the way to the right one (2,), and the unit vector down across it (2,)."""
    corner, along = mouth[INNER_TOP[0]], mouth[INNER_TOP[-1]] - mouth[INNER_TOP[0]]
    return corner, along, np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-6)


def _contours(mouth: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far below the line between the corners the inner lips' edges lie at u (N,) in 0..1 of the way: top and bottom (N,)."""
    from scipy.interpolate import PchipInterpolator

    corner, along, across = _axes(mouth)
    edges = []
    for contour in (INNER_TOP, INNER_BOTTOM):
        places = mouth[contour] - corner
        at = np.maximum.accumulate(np.clip(places @ along / max(float(along @ along), 1e-9), 0, 1) + 1e-4 * np.arange(5))
        edges.append(PchipInterpolator(at, places @ across)(u))
    return edges[0], np.maximum(edges[0], edges[1])
