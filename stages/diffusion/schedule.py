"""The noise schedule: z_t = sqrt(alpha_bar_t) z_0 + sqrt(1 - alpha_bar_t) eps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from stages.models.denoiser import Prediction


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear in sqrt(beta) from 0.0015 to 0.0195 (the release; LDM). The paper states T = 200, the release trains with 1000."""

    steps: int = 1000
    """T."""
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    prediction: Prediction = "v_prediction"

    @cached_property
    def alpha_bar(self) -> Tensor:
        """(T,) f32."""
        # T = 200 takes fewer, larger steps through the same noise levels
        scale = 1000 / self.steps
        root = torch.linspace((self.beta_start * scale) ** 0.5, (self.beta_end * scale) ** 0.5, self.steps, dtype=torch.float64)
        return (1 - root**2).cumprod(0).float()

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)), each (B, 1, 1, 1)."""
        a = self.alpha_bar.to(like.device)[t].to(like.dtype)[:, None, None, None]
        return a.sqrt(), (1 - a).sqrt()

    def add_noise(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t."""
        a, s = self.coefficients(t, z0)
        return a * z0 + s * noise

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should return: eps, v = a eps - s z_0 (Salimans & Ho 2022), or z_0."""
        a, s = self.coefficients(t, z0)
        return {"epsilon": noise, "v_prediction": a * noise - s * z0, "sample": z0}[self.prediction]

    def clean(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """The z_0 that a network output stands for."""
        a, s = self.coefficients(t, z_t)
        if self.prediction == "epsilon":
            return (z_t - s * output) / a
        return a * z_t - s * output if self.prediction == "v_prediction" else output

    def diffusers_config(self) -> dict[str, Any]:
        """Arguments for diffusers' schedulers."""
        scale = 1000 / self.steps
        return dict(
            num_train_timesteps=self.steps,
            beta_start=self.beta_start * scale,
            beta_end=self.beta_end * scale,
            beta_schedule="scaled_linear",
            prediction_type=self.prediction,
        )
