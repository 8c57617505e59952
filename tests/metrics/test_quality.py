"""PSNR and SSIM against scikit-image, the reference that the module names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from stages.errors import InputError
from stages.metrics.quality import BAND_PIXELS, psnr, ssim


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return float(structural_similarity(a, b, channel_axis=2, **settings))


def picture(height: int, width: int, kind: str) -> np.ndarray:
    random = np.random.default_rng(height * width)
    if kind == "noise":
        return random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "dark":
        return random.integers(0, 3, (height, width, 3), dtype=np.uint8)
    rows, columns = np.indices((height, width))
    return np.stack([(rows * 3) % 256, (columns * 2) % 256, (rows + columns) % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize("kind", ["noise", "dark", "gradient"])
@pytest.mark.parametrize("size", [(11, 11), (12, 300), (256, 256), (333, 251)])
def test_quality_equals_scikit_image(size: tuple[int, int], kind: str) -> None:
    a = picture(*size, kind)
    b = np.clip(a.astype(int) + np.random.default_rng(1).integers(-9, 10, a.shape), 0, 255).astype(np.uint8)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b), abs=1e-6)
    assert ssim(a, b) == pytest.approx(reference_ssim(a, b), abs=1e-6)


def test_ssim_of_flat_bright_frames_keeps_its_precision() -> None:
    a = np.full((64, 64, 3), 255, np.uint8)
    b = a - np.random.default_rng(2).integers(0, 2, a.shape, dtype=np.uint8)
    assert ssim(a, b) == pytest.approx(reference_ssim(a, b), abs=1e-6)


def test_ssim_of_a_frame_worked_on_in_many_bands_has_no_seams() -> None:
    a, b = picture(130, 1500, "noise"), picture(130, 1500, "gradient")
    assert a.shape[0] * a.shape[1] > 4 * BAND_PIXELS
    assert ssim(a, b) == pytest.approx(reference_ssim(a, b), abs=1e-6)


def test_equal_frames_are_infinitely_good() -> None:
    a = picture(40, 50, "noise")
    assert psnr(a, a.copy()) == math.inf
    assert ssim(a, a.copy()) == pytest.approx(1.0, abs=1e-12)


def test_psnr_of_black_against_white_is_zero_even_for_large_frames() -> None:
    black, white = np.zeros((2160, 3840, 3), np.uint8), np.full((2160, 3840, 3), 255, np.uint8)
    assert psnr(black, white) == pytest.approx(0.0, abs=1e-9)


def test_frames_smaller_than_the_window_are_refused() -> None:
    small = np.zeros((10, 64, 3), np.uint8)
    with pytest.raises(InputError, match="64x10 pixels"):
        ssim(small, small)
