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
BAND_PIXELS = 16_384
"""Pixels worked on at once: bands of rows that stay in the processor's cache make large frames several times faster."""


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
    band = max(8, BAND_PIXELS // a.shape[1])
    overlap = SSIM_WINDOW - 1
    total = 0.0
    for top in range(0, a.shape[0] - overlap, band):
        rows = slice(top, top + band + overlap)
        total += float(_ssim_map(a[rows].astype(np.float64), b[rows].astype(np.float64)).sum())
    return total / ((a.shape[0] - overlap) * (a.shape[1] - overlap) * 3)


def _ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM at each pixel whose whole window lies inside: (H, W, 3) f64 -> (H - 10, W - 10, 3) f64."""
    c1, c2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    # The two variances occur only as their sum, so that one filter pass serves both.
    variances = _window_mean(x * x + y * y) - squares
    covariance = _window_mean(x * y) - product
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _window_mean(image: np.ndarray) -> np.ndarray:
    """Gaussian mean around each pixel whose whole window lies inside: (H, W, 3) -> (H - 10, W - 10, 3) f64."""
    kernel = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_64F)
    edge = SSIM_WINDOW // 2
    return cv2.sepFilter2D(image, cv2.CV_64F, kernel, kernel)[edge:-edge, edge:-edge]


def _check(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype == np.uint8, (a.dtype, b.dtype)
    assert a.shape == b.shape and a.ndim == 3 and a.shape[2] == 3, (a.shape, b.shape)
