"""What is measured, by the names that scores.json, tables and reports use."""

from __future__ import annotations

from collections.abc import Sequence

METRICS = ("psnr", "ssim", "lpips", "vgg", "mouth", "identity", "jitter", "sync")
"""What `--metrics` chooses among."""

RESULTS: dict[str, tuple[str, ...]] = {
    "psnr": ("psnr", "mouth_psnr", "frame_psnr"),
    "ssim": ("ssim", "mouth_ssim", "frame_ssim"),
    "lpips": ("lpips_alex", "mouth_lpips_alex"),
    "vgg": ("lpips_vgg",),
    "mouth": ("mouth_landmark_distance", "lip_opening_correlation", "lip_opening_lag", "open_mouth_share"),
    "identity": ("identity_distance",),
    "jitter": ("jitter", "flicker"),
    "sync": ("sync_offset", "sync_confidence", "sync_distance"),
}
"""Choice -> results."""

ORDER = (
    "psnr", "ssim", "lpips_alex", "lpips_vgg", "mouth_psnr", "mouth_ssim", "mouth_lpips_alex", "mouth_landmark_distance",
    "lip_opening_correlation", "lip_opening_lag", "identity_distance", "jitter", "sync_offset", "sync_confidence",
    "sync_distance", "flicker", "open_mouth_share", "frame_psnr", "frame_ssim",
)  # fmt: skip

BETTER: dict[str, str] = {
    "psnr": "up", "ssim": "up", "lpips_alex": "down", "lpips_vgg": "down", "mouth_psnr": "up", "mouth_ssim": "up",
    "mouth_lpips_alex": "down", "mouth_landmark_distance": "down", "lip_opening_correlation": "up", "lip_opening_lag": "zero",
    "identity_distance": "down", "jitter": "one", "sync_offset": "zero", "sync_confidence": "up", "sync_distance": "down",
    "flicker": "down", "open_mouth_share": "truth", "frame_psnr": "up", "frame_ssim": "up",
}  # fmt: skip
"""Which way is better: up, down, near zero, near one, near the ground truth's."""

STANDING = ("ground_truth", "autoencoder", "copy_baseline", "wrong_audio", "silence")
"""The standing rows: floor and ceiling of every table."""
ROWS = (*STANDING, "turned_copy")
"""Those, and what can be had besides."""
MODEL_ROWS = ("autoencoder", "wrong_audio", "silence")
"""Those that a model draws."""


def result_names(metrics: Sequence[str]) -> tuple[str, ...]:
    """Names of the results of `metrics`, in the order of every table."""
    wanted = {name for metric in metrics for name in RESULTS[metric]}
    return tuple(name for name in ORDER if name in wanted)
