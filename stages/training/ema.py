"""Exponential moving average over all trained weights, condition encoders included (DESIGN, fix 6)."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """decay is warmed up as min(decay, (1 + n) / (10 + n)) (LDM's LitEma)."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model` after optimiser step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, values = list(self.model.parameters()), list(model.parameters())
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)
