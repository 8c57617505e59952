"""PSNR and SSIM of u8 RGB frames.

SSIM after Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity"
(IEEE TIP 2004): Gaussian window of sigma 1.5 cut at 11 x 11, K1 0.01, K2 0.03, range 255, population covariance; each
channel on its own, then the mean over channels and over all pixels whose window lies inside the picture. This is
scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255,
channel_axis=2)`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from stages.errors import InputError

PEAK = 255.0
SSIM_SIGMA, SSIM_WINDOW = 1.5, 11
SSIM_K1, SSIM_K2 = 0.01, 0.03
C1, C2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
BAND_PIXELS = 32_768
"""Pixels worked on at once: bands of rows that stay in the processor's cache make large frames faster."""


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two (H, W, 3) u8 frames over all channels; infinite where they are equal."""
    _check(a, b)
    error = cv2.norm(a, b, cv2.NORM_L2SQR) / a.size
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Mean structural similarity of two (H, W, 3) u8 frames, 1 where they are equal.

    Raises InputError when a side is shorter than the window of 11 pixels.
    """
    _check(a, b)
    if min(a.shape[:2]) < SSIM_WINDOW:
        raise InputError(f"frames of {a.shape[1]}x{a.shape[0]} pixels are too small for SSIM: {SSIM_WINDOW} is the least")
    edge = SSIM_WINDOW - 1
    height, width = a.shape[0] - edge, a.shape[1] - edge
    rows, columns = _differing(a, b)
    if rows.stop <= rows.start:
        return 1.0
    high, wide = rows.stop - rows.start, columns.stop - columns.start  # of the similarities that may be below 1
    band = min(high, max(SSIM_WINDOW, BAND_PIXELS // (wide + edge)))
    work = np.empty((9, band + edge, wide + edge, 3), np.float32)
    total = float((height * width - high * wide) * 3)
    for top in range(rows.start, rows.stop, band):
        part = slice(top, min(top + band, rows.stop) + edge), slice(columns.start, columns.stop + edge)
        total += _ssim_sum(a[part], b[part], work[:, : part[0].stop - top])
    return total / (height * width * 3)


def _differing(a: np.ndarray, b: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the map of similarities, (H - 10, W - 10), outside of which no window sees a difference.

    A mouth that is pasted back leaves the rest of its frame as it was: there the similarity is 1 by definition.
    """
    edge = SSIM_WINDOW - 1
    x, y, wide, high = cv2.boundingRect(cv2.absdiff(a, b).reshape(len(a), -1))  # a column for each channel
    if not high:
        return slice(0, 0), slice(0, 0)
    left, right = x // 3, -(-(x + wide) // 3)
    return (
        slice(max(0, y - edge), min(a.shape[0] - edge, y + high)),
        slice(max(0, left - edge), min(a.shape[1] - edge, right)),
    )


def _ssim_sum(a: np.ndarray, b: np.ndarray, work: np.ndarray) -> float:
    """SSIM summed over pixels whose whole window lies inside a, b (H, W, 3) u8; work: (9, H, W, 3) f32 to calculate in."""
    x, y, squares, product, spare = work[:5]
    # Variances do not change with the level, and single precision keeps those of small numbers: flat areas need it.
    level = np.float32(np.mean(cv2.mean(a)[:3]))
    np.subtract(a, level, out=x)
    np.subtract(b, level, out=y)
    np.multiply(x, x, out=squares)
    squares += np.multiply(y, y, out=spare)
    np.multiply(x, y, out=product)
    kernel = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_32F)
    for image, mean in zip((x, y, squares, product), work[5:], strict=True):
        cv2.sepFilter2D(image, cv2.CV_32F, kernel, kernel, dst=mean)
    half = SSIM_WINDOW // 2
    inside = (slice(half, -half), slice(half, -half))
    mean_x, mean_y, variances, covariance = (mean[inside] for mean in work[5:])  # (H - 10, W - 10, 3)
    # The two variances occur only as their sum, so that one filter pass serves both.
    top, bottom, spare = x[inside], y[inside], spare[inside]
    np.multiply(mean_x, mean_y, out=top)
    np.multiply(mean_x, mean_x, out=bottom)
    bottom += np.multiply(mean_y, mean_y, out=spare)
    variances -= bottom
    covariance -= top
    mean_x += level
    mean_y += level
    np.multiply(mean_x, mean_y, out=top)
    np.multiply(mean_x, mean_x, out=bottom)
    bottom += np.multiply(mean_y, mean_y, out=spare)
    # In place from here: with a temporary for each step the same formula takes twice as long.
    for part, factor, constant in ((top, 2, C1), (bottom, 1, C1), (covariance, 2, C2), (variances, 1, C2)):
        part *= np.float32(factor)
        part += np.float32(constant)
    top *= covariance
    bottom *= variances
    top /= bottom
    return float(top.sum(dtype=np.float64))


def _check(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype == np.uint8, (a.dtype, b.dtype)
    assert a.shape == b.shape and a.ndim == 3 and a.shape[2] == 3, (a.shape, b.shape)
