"""The canonical crop: a similarity transform from eyes and nose base to one tight template, and back.

Mouth and chin points never take part, so the crop says nothing about how far the mouth is open (DESIGN, fix 2).
Coordinates: source pixels have their centres at whole numbers; the template is the unit square.
"""

from __future__ import annotations

import cv2
import numpy as np

from stages.shapes import CONDITION_POINTS, EYE_LEFT, EYE_RIGHT, NOSE_BASE

TEMPLATE = np.array([[85 / 256, 64 / 256], [171 / 256, 64 / 256], [0.5, 128 / 256]])
"""Where the two eye centres (left and right in the picture) and the nose base lie: (3, 2) in the unit square.
Eye distance is 86 px of 256; from the nose base down there is room for a wide open mouth and the chin."""

FINER = 0.9
"""Crop pixels a source pixel below which the source holds detail that the crop does not."""


def anchors(landmarks: np.ndarray) -> np.ndarray:
    """Eye centres and nose base of (..., 68, 2) landmarks: (..., 3, 2)."""
    parts = (EYE_RIGHT, EYE_LEFT, NOSE_BASE)
    return np.stack([landmarks[..., part, :].mean(axis=-2) for part in parts], axis=-2)


def similarity(points: np.ndarray, target: np.ndarray = TEMPLATE) -> np.ndarray:
    """Least-squares similarity that takes points (..., 3, 2) in source pixels to the unit template: (..., 2, 3) f32."""
    p, q = np.asarray(points, np.float64), np.asarray(target, np.float64)
    p_mean, q_mean = p.mean(axis=-2, keepdims=True), q.mean(axis=-2, keepdims=True)
    pc, qc = p - p_mean, q - q_mean
    # With points as complex numbers a similarity is w = s z + t, and least squares gives s = <z, w> / <z, z>.
    z, w = pc[..., 0] + 1j * pc[..., 1], qc[..., 0] + 1j * qc[..., 1]
    s = (np.conj(z) * w).sum(-1) / np.maximum((np.abs(z) ** 2).sum(-1), 1e-12)
    linear = np.stack([np.stack([s.real, -s.imag], -1), np.stack([s.imag, s.real], -1)], -2)  # (..., 2, 2)
    shift = q_mean[..., 0, :] - (linear @ p_mean[..., 0, :, None])[..., 0]
    return np.concatenate([linear, shift[..., None]], axis=-1).astype(np.float32)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Take points (..., P, 2) through (..., 2, 3)."""
    return points @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]


def condition_points(align: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Source landmarks (T, 68, 2) to the 39 points that may condition the model, in -1..1 of the crop: (T, 39, 2) f32."""
    return (apply(align, landmarks)[:, CONDITION_POINTS] * 2 - 1).astype(np.float32)


def invert(matrix: np.ndarray) -> np.ndarray:
    """The inverse of one similarity (2, 3), f64."""
    linear = np.linalg.inv(matrix[:, :2].astype(np.float64))
    return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)


def pixel_matrix(matrix: np.ndarray, resolution: int) -> np.ndarray:
    """Source pixels -> crop pixels, both with centres at whole numbers: (2, 3) f64."""
    m = matrix.astype(np.float64) * resolution
    m[:, 2] -= 0.5
    return m


def scale_of(matrix: np.ndarray) -> float:
    """Length of one source pixel in the template."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def crop(frame: np.ndarray, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """Cut the canonical crop out of frame (H, W, 3) u8: (R, R, 3) u8. Edges repeat where the crop leaves the frame."""
    return warp(frame, pixel_matrix(matrix, resolution), (resolution, resolution))


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample `image` by (2, 3) source -> target pixels to `size` (width, height), without aliasing when it shrinks."""
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    if scale < 0.75:
        # cv2.warpAffine looks at four pixels only: average first, on the part that is needed
        corners = np.array([[0, 0], [size[0], 0], [0, size[1]], [size[0], size[1]]], np.float64)
        inside = apply(invert(matrix), corners)
        pad = 2 / scale
        h, w = image.shape[:2]
        x0, y0 = np.clip(np.floor(inside.min(0) - pad).astype(int), 0, (w - 1, h - 1))
        x1, y1 = np.clip(np.ceil(inside.max(0) + pad).astype(int), (x0 + 1, y0 + 1), (w, h))
        part = image[y0:y1, x0:x1]
        small = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        kx, ky = small[0] / part.shape[1], small[1] / part.shape[0]
        image = cv2.resize(part, small, interpolation=cv2.INTER_AREA)
        # small pixel centre X = (x - x0 + .5) kx - .5, so x = (X + .5) / kx + x0 - .5
        back = np.array([[1 / kx, 0, 0.5 / kx + x0 - 0.5], [0, 1 / ky, 0.5 / ky + y0 - 0.5], [0, 0, 1]])
        matrix = matrix @ back
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def paste(
    frame: np.ndarray, generated: np.ndarray, matrix: np.ndarray, alpha: np.ndarray, detail: np.ndarray | None = None
) -> np.ndarray:
    """Blend the crop `generated` (R, R, 3) u8 into frame (H, W, 3) u8 where alpha (R, R) f32 in 0..1 is above zero.

    Every pixel that alpha does not reach keeps its value exactly. Where the frame is finer than the crop, the share `detail`
    (R, R) f32 in 0..1 of what the crop cannot hold (pores, grain) is the frame's own. Returns a new (H, W, 3) u8.
    """
    resolution, out = generated.shape[0], frame.copy()
    if (found := _reached(frame, matrix, alpha)) is None:
        return out
    part, shifted, size = found
    mouth = warp(generated, shifted, size).astype(np.float32)
    # Zero around, never repeated edges: alpha must end where it ends.
    a = cv2.warpAffine(alpha.astype(np.float32), shifted, size, flags=cv2.INTER_LINEAR, borderValue=0)[..., None]
    here = out[part]
    if detail is not None and scale_of(matrix) * resolution < FINER:
        coarse = warp(crop(frame, matrix, resolution), shifted, size).astype(np.float32)
        share = cv2.warpAffine(detail, shifted, size, flags=cv2.INTER_LINEAR, borderValue=0)[..., None]
        mouth = mouth + share * (here - coarse)
    mouth = np.clip(mouth, 0, 255)
    here[...] = np.where(a > 0, np.rint(here * (1 - a) + mouth * a), here).astype(np.uint8)
    return out


def shade(frame: np.ndarray, light: np.ndarray, matrix: np.ndarray) -> None:
    """Add the crop `light` (R, R) f32, grey levels, to all colours of frame (H, W, 3) u8, in place."""
    if (found := _reached(frame, matrix, light)) is not None:
        part, shifted, size = found
        more = cv2.warpAffine(light.astype(np.float32), shifted, size, flags=cv2.INTER_LINEAR, borderValue=0)[..., None]
        frame[part] = np.clip(np.rint(frame[part] + more), 0, 255).astype(np.uint8)


def _reached(
    frame: np.ndarray, matrix: np.ndarray, weights: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray, tuple[int, int]] | None:
    """The part of the frame that the crop's `weights` (R, R) reach where they are not 0, the map from crop pixels to it, and its
    size (width, height); None where they lie outside the picture."""
    ys, xs = np.nonzero(weights)
    if not len(ys):
        return None
    inverse = invert(pixel_matrix(matrix, len(weights)))
    corners = np.array([[x, y] for x in (xs.min() - 1, xs.max() + 1) for y in (ys.min() - 1, ys.max() + 1)], np.float64)
    reach = apply(inverse, corners)
    h, w = frame.shape[:2]
    x0, y0 = np.clip(np.floor(reach.min(0)).astype(int), 0, (w, h))
    x1, y1 = np.clip(np.ceil(reach.max(0)).astype(int) + 1, 0, (w, h))
    if x1 <= x0 or y1 <= y0:
        return None
    inverse[:, 2] -= (x0, y0)
    return (slice(y0, y1), slice(x0, x1)), inverse, (int(x1 - x0), int(y1 - y0))
