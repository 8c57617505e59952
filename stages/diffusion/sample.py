"""Sampling: noise to z_0 in few steps, keeping what is known (the masked z_T of paper 3.3).

One contract for every sampler: (denoise, schedule, noise, condition, ...) -> z_0, with a callback instead of printing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from stages.diffusion.loss import Denoise
from stages.diffusion.schedule import Schedule
from stages.errors import UsageError
from stages.models.denoiser import Condition

SamplerName = Literal["ddim", "dpm++"]


def make_scheduler(name: SamplerName, schedule: Schedule, steps: int) -> Any:
    """diffusers' scheduler with its timesteps set. Raises UsageError for more steps than the schedule has."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    if not 1 <= steps <= schedule.steps:
        raise UsageError(f"--steps {steps}: must be between 1 and {schedule.steps}")
    config = schedule.diffusers_config()
    # "trailing" starts at the last timestep, where z_T is all but noise; "leading" (LDM) never quite gets there.
    makers: dict[str, Callable[[], Any]] = {
        "ddim": lambda: DDIMScheduler(**config, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"),
        "dpm++": lambda: DPMSolverMultistepScheduler(**config, algorithm_type="dpmsolver++", timestep_spacing="trailing"),
    }
    scheduler = makers[name]()
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def sample(
    denoise: Denoise,
    schedule: Schedule,
    noise: Tensor,
    condition: Condition,
    *,
    steps: int,
    sampler: SamplerName = "ddim",
    known: Tensor | None = None,
    keep: Tensor | None = None,
    begin: Tensor | None = None,
    strength: float = 1.0,
    callback: Callable[[int], None] | None = None,
) -> Tensor:
    """z_0 (B, C, h, w) from noise (B, C, h, w).

    With a strength below 1 the way starts at that share of the schedule, from `begin` (B, C, h, w) with as much noise
    (SDEdit, Meng et al. 2022), and all `steps` are taken from there.
    Where keep (h, w) is 1, the latent follows `known` (B, C, h, w) at every step, noised with the same noise that it
    started from, and equals it at the end; elsewhere it is generated. Deterministic: DDIM with eta 0.
    """
    scheduler = make_scheduler(sampler, schedule, steps if strength == 1 else min(schedule.steps, round(steps / strength)))
    way, z = scheduler.timesteps[-steps:], noise
    if begin is not None and strength < 1:
        z = schedule.add_noise(begin, noise, way[:1].to(noise.device).long().expand(len(noise)))
    for i, t in enumerate(way):
        times = torch.full((len(z),), int(t), device=z.device, dtype=torch.long)
        if known is not None and keep is not None:
            z = torch.where(keep > 0, schedule.add_noise(known, noise, times), z)
        z = scheduler.step(denoise(z, times, condition), t, z).prev_sample
        if callback:
            callback(i)
    if known is not None and keep is not None:
        z = torch.where(keep > 0, known, z)
    return z
