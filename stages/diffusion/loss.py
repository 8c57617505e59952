"""The training objective (paper eq. 3), weighted by place."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stages.diffusion.schedule import Schedule
from stages.models.denoiser import Condition

Denoise = Callable[[Tensor, Tensor, Condition], Tensor]


def loss(
    denoise: Denoise, schedule: Schedule, z0: Tensor, noise: Tensor, t: Tensor, condition: Condition, weight: Tensor
) -> Tensor:
    """Per-sample mean squared error: (B,). `weight` (h, w) or (C, h, w) has mean 1: where the mouth is, errors count more."""
    z_t = schedule.add_noise(z0, noise, t)  # (B, C, h, w)
    return weighted_error(denoise(z_t, t, condition), schedule.target(z0, noise, t), weight)


def weighted_error(output: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared difference of (B, C, h, w), weighted by place and channel: (B,)."""
    return ((output - target) ** 2 * weight).mean(dim=(1, 2, 3))
