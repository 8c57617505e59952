"""From crops and conditions to generated crops: the one path that training's samples and `infer` both take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.diffusion.sample import SamplerName, sample
from stages.diffusion.schedule import Schedule
from stages.faces.mask import MaskKind, feathered, mask, window
from stages.models.denoiser import Condition, Denoiser
from stages.models.vae import FirstStage

MASK_FILL = {"lower-face": 0.0, "mouth": 0.0, "paper": -1.0}
"""Value of masked pixels in -1..1: grey, which is far from no skin; the release's is black."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How to sample."""

    steps: int = 10
    sampler: SamplerName = "ddim"


class Renderer:
    """First stage, denoiser, schedule and mask, on one device, in eval mode."""

    def __init__(self, first_stage: FirstStage, denoiser: Denoiser, schedule: Schedule, mask_kind: MaskKind, resolution: int):
        self.first_stage, self.denoiser, self.schedule = first_stage.eval(), denoiser.eval(), schedule
        self.resolution, self.kind = resolution, mask_kind
        self.device = next(denoiser.parameters()).device
        cells = resolution // first_stage.factor
        self.rows, self.columns = window(mask_kind, cells)
        self.mask = torch.from_numpy(mask(resolution, mask_kind)).to(self.device)  # (R, R)
        self.alpha = feathered(resolution, mask_kind)  # (R, R) f32, NumPy: paste-back works there
        hidden = F.max_pool2d(self.mask[None, None], first_stage.factor)  # (1, 1, h, w): a cell that holds masked pixels
        # One cell around it sees masked pixels too: only what lies beyond is known for certain.
        self.keep = self.crop(1 - F.max_pool2d(hidden, 3, 1, 1))[0, 0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the denoised window."""
        return self.first_stage.channels, self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def crop(self, z: Tensor) -> Tensor:
        """The denoised window of whole latents (..., h, w)."""
        return z[..., self.rows, self.columns]

    def pictures(self, crops: np.ndarray) -> Tensor:
        """(B, R, R, 3) u8 -> (B, 3, R, R) f32 in -1..1 on the device."""
        x = torch.from_numpy(np.array(crops)).to(self.device)
        return x.permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Whole latents (B, C, h, w) of pictures (B, 3, R, R)."""
        return self.first_stage.encode(x)

    @torch.no_grad()
    def encode_masked(self, x: Tensor) -> Tensor:
        """Whole latents of x_m: the mouth is filled before anything sees it."""
        return self.first_stage.encode(x * (1 - self.mask) + MASK_FILL[self.kind] * self.mask)

    def generate(self, noise: Tensor, condition: Condition, config: SampleConfig) -> Tensor:
        """Window latents (B, C, h, w) from noise of the same shape."""
        seen = "m" in self.denoiser.config.conditions  # a model without the masked frame draws the whole window
        return sample(
            self.denoiser, self.schedule, noise, condition, steps=config.steps, sampler=config.sampler,
            known=condition.masked if seen else None, keep=self.keep,
        )  # fmt: skip

    @torch.no_grad()
    def decode(self, z_masked: Tensor, z: Tensor) -> np.ndarray:
        """Generated window z (B, C, h, w) set into the whole z_masked, decoded: (B, R, R, 3) u8."""
        whole = z_masked.clone()
        whole[..., self.rows, self.columns] = z
        x = self.first_stage.decode(whole).clamp(-1, 1)
        return ((x.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()

    def compose(self, crops: np.ndarray, generated: np.ndarray) -> np.ndarray:
        """Generated crops blended into the source's (B, R, R, 3) u8 by the feathered mask."""
        a = self.alpha[None, ..., None]
        return np.rint(crops * (1 - a) + generated * a).astype(np.uint8)
