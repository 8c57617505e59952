"""From crops and conditions to generated crops: the one path that training's samples and `infer` both take."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.diffusion.loss import Denoise
from stages.diffusion.sample import SamplerName, sample
from stages.diffusion.schedule import Schedule
from stages.faces.mask import MaskKind, feathered, mask, view, window
from stages.models.denoiser import Condition, Denoiser
from stages.models.vae import FirstStage

MASK_FILL = {"lower-face": 0.0, "mouth": 0.0, "paper": -1.0}
"""Value of masked pixels in -1..1: grey, which is far from no skin; the release's is black."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How to sample."""

    steps: int = 10
    sampler: SamplerName = "ddim"
    guidance: float = 1.0
    """How far to lead away from what the model would draw without sound (Ho & Salimans 2022); 1 leads nowhere and is free."""
    strength: float = 1.0
    """Share of the schedule that is gone: 1 starts at noise, less at the reference under as much noise."""
    difference: float = 1.0
    """How much of what was drawn differently from the reference is shown: less than 1 trusts a model that learned little less."""


class Coder:
    """First stage and mask, on one device, in eval mode: crops to the latents of the view, and of the window inside it.

    The first stage sees the view, H x W pixels of the crop and h x w cells; the denoiser draws the window inside it.
    """

    def __init__(self, first_stage: FirstStage, mask_kind: MaskKind, resolution: int):
        self.first_stage, self.resolution, self.kind = first_stage.eval(), resolution, mask_kind
        self.device, self.dtype = next(first_stage.parameters()).device, torch.float32
        cells, factor = resolution // first_stage.factor, first_stage.factor
        inner, outer = window(mask_kind, cells), view(mask_kind, cells)
        self.rows, self.columns = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))
        self.view = tuple(slice(o.start * factor, o.stop * factor) for o in outer)  # pixels of the crop
        self.mask = torch.from_numpy(mask(resolution, mask_kind)).to(self.device)  # (R, R)
        self.hidden = self.mask[self.view]  # (H, W)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the denoised window."""
        return self.first_stage.channels, self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def crop(self, z: Tensor) -> Tensor:
        """The denoised window of the view's latents (..., h, w)."""
        return z[..., self.rows, self.columns]

    def window_of(self, x: Tensor) -> Tensor:
        """The denoised window's pixels of views (..., H, W)."""
        rows, columns = (slice(s.start * self.first_stage.factor, s.stop * self.first_stage.factor) for s in (self.rows, self.columns))
        return x[..., rows, columns]

    def turned(self, z: Tensor, field: np.ndarray) -> Tensor:
        """The denoised window (B, C, h, w) looked up where `field` (R, R, 2), pixels of the crop (faces.pose.turning), says."""
        factor, (h, w) = self.first_stage.factor, z.shape[-2:]
        cells = cv2.resize(field, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)  # where a cell's middle looks
        start = np.array([self.view[1].start // factor + self.columns.start, self.view[0].start // factor + self.rows.start])
        at = (cells[start[1] : start[1] + h, start[0] : start[0] + w] + 0.5) / factor - start  # of the window, 0 .. (w, h)
        grid = torch.from_numpy(np.float32(2 * at / (w, h) - 1)).to(z.device).expand(len(z), -1, -1, -1)
        return F.grid_sample(z, grid, "bicubic", padding_mode="border", align_corners=False)

    def pictures(self, crops: np.ndarray) -> Tensor:
        """The view of crops (B, R, R, 3) u8: (B, 3, H, W) f32 in -1..1 on the device."""
        x = torch.from_numpy(np.array(crops[:, *self.view])).to(self.device)
        return x.permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, C, h, w) of views (B, 3, H, W)."""
        return self.first_stage.encode(x.to(self.dtype)).float()

    @torch.no_grad()
    def encode_masked(self, x: Tensor) -> Tensor:
        """Latents of x_m: the mouth is filled before anything sees it."""
        return self.encode(x * (1 - self.hidden) + MASK_FILL[self.kind] * self.hidden)


class Renderer(Coder):
    """First stage, denoiser, schedule and mask, on one device, in eval mode."""

    def __init__(self, first_stage: FirstStage, denoiser: Denoiser, schedule: Schedule, mask_kind: MaskKind, resolution: int):
        super().__init__(first_stage, mask_kind, resolution)
        self.denoiser, self.schedule = denoiser.eval(), schedule
        self.alpha = feathered(resolution, mask_kind)  # (R, R) f32, NumPy: paste-back works there
        hidden = F.max_pool2d(self.hidden[None, None], first_stage.factor)  # (1, 1, h, w): a cell that holds masked pixels
        # One cell around it sees masked pixels too: only what lies beyond is known for certain.
        self.keep = self.crop(1 - F.max_pool2d(hidden, 3, 1, 1))[0, 0]

    def use(self, dtype: torch.dtype, *, compiled: bool = False) -> Renderer:
        """Run the networks in `dtype`, compiled if asked; latents, sampler and pictures stay f32."""
        self.dtype = dtype
        layout = torch.channels_last if self.device.type == "cuda" else torch.preserve_format
        self.first_stage.to(dtype=dtype, memory_format=layout)
        self.denoiser.to(dtype=dtype, memory_format=layout)
        if compiled:
            self.denoiser = torch.compile(self.denoiser)  # type: ignore[assignment]
            self.first_stage.net.decoder = torch.compile(self.first_stage.net.decoder)
        return self

    def generate(self, noise: Tensor, condition: Condition, config: SampleConfig) -> Tensor:
        """Window latents (B, C, h, w) from noise of the same shape."""
        seen = "m" in self.denoiser.config.conditions  # a model without the masked frame draws the whole window
        drawn = self.denoiser.drawn
        z = sample(
            self._guided(config.guidance), self.schedule, noise, condition, steps=config.steps, sampler=config.sampler,
            known=drawn(condition.masked, condition) if seen else None, keep=self.keep,
            begin=drawn(condition.reference, condition), strength=config.strength,
        )  # fmt: skip
        z = self.denoiser.latent(z, condition)
        if config.difference == 1:
            return z
        mixed = condition.reference + config.difference * (z - condition.reference)
        return torch.where(self.keep > 0, z, mixed) if seen else mixed

    def _guided(self, scale: float) -> Denoise:
        """The denoiser with classifier-free guidance by the sound."""

        def plain(z: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return self.denoiser(z.to(self.dtype), t, condition.to(self.dtype)).float()

        def guided(z: Tensor, t: Tensor, condition: Condition) -> Tensor:
            deaf = replace(condition, audio=self.denoiser.audio_mean.expand_as(condition.audio))
            without = plain(z, t, deaf)
            return without + scale * (plain(z, t, condition) - without)

        return plain if scale == 1 else guided

    @torch.no_grad()
    def encode_reference(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of views (B, 3, H, W) the window's latents z_r (B, C, h, w), and what the first stage loses of them (B, 3, H, W).

        A model that draws the difference to the reference leaves the rest of it as it is: then what no latent holds, pores and
        single hairs, is still there and goes back on top. Other models draw all anew, and nothing is kept for them.
        """
        whole = self.encode(x)
        return self.crop(whole), self.lost(x, whole)

    @torch.no_grad()
    def lost(self, x: Tensor, z: Tensor) -> Tensor:
        """What the latents z (B, C, h, w) of whole views x (B, 3, H, W) do not hold: (B, 3, H, W); see encode_reference."""
        return x - self.first_stage.decode(z.to(self.dtype)).float() if self.denoiser.config.residual else torch.zeros_like(x)

    @torch.no_grad()
    def decode(self, z_masked: Tensor, z: Tensor, lost: Tensor | None = None) -> np.ndarray:
        """Generated window z (B, C, h, w) set into the view's z_masked, decoded: (B, R, R, 3) u8, black around the view.

        `lost` (B, 3, H, W) is encode_reference's.
        """
        whole = z_masked.clone()
        whole[..., self.rows, self.columns] = z
        x = self.first_stage.decode(whole.to(self.dtype)).float()
        return self.show(x if lost is None else x + lost)

    def show(self, x: Tensor) -> np.ndarray:
        """Views (B, 3, H, W) in their place in the crop: (B, R, R, 3) u8, black around them."""
        x = ((x.clamp(-1, 1).permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8)
        crops = np.zeros((len(x), self.resolution, self.resolution, 3), np.uint8)
        crops[:, *self.view] = x.cpu().numpy()
        return crops

    def compose(self, crops: np.ndarray, generated: np.ndarray) -> np.ndarray:
        """Generated crops blended into the source's (B, R, R, 3) u8 by the feathered mask."""
        a = self.alpha[None, ..., None]
        return np.rint(crops * (1 - a) + generated * a).astype(np.uint8)
