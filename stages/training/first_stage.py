"""What train-vae optimises: reconstruction of random patches, weighted on the mouth, plus the latent's regulariser.

LDM's whole recipe adds LPIPS to the reconstruction and a discriminator that learns to tell it from the truth (Rombach,
Blattmann, Lorenz, Esser, Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022, appendix G).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.faces.mask import mask
from stages.models.discriminator import PatchDiscriminator, adaptive_weight, hinge_loss
from stages.models.vae import FirstStage
from stages.training.crops import ClipSet
from stages.training.order import generator

VALIDATION_FRAMES = 24


@dataclass
class Patches:
    """A batch."""

    pictures: Tensor
    """(B, 3, p, p) in -1..1."""
    weight: Tensor
    """(B, 1, p, p), of mean about 1."""
    noise: Tensor
    """(B, C, h, w): the posterior's draw."""
    step: int
    """Counted from 0."""
    made: Tensor | None = None
    """(B, 3, p, p): the reconstructions, left by `loss` for the adversary."""


class FirstStageTask:
    """A training.loop.Task and AdversarialTask. `config` is stages.train_vae.Config, resolved.

    `perceptual` (a distance for each pair of pictures) and `adversary` are needed when their weights are not 0.
    """

    def __init__(
        self, model: FirstStage, train: ClipSet, held_out: ClipSet, config: Any,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None, adversary: PatchDiscriminator | None = None,
    ):  # fmt: skip
        self.model, self.train, self.held_out, self.config = model, train, held_out, config
        self.perceptual, self.adversary = perceptual, adversary
        self.criterion = ("mouth_psnr", 1)
        self.crops = [c.array("crops.npy") for c in train.clips]
        self.held_out_crops = [c.array("crops.npy") for c in held_out.clips]
        level = 1 + (config.mouth_weight - 1) * mask(config.resolution)
        self.weight = (level / level.mean()).astype(np.float32)

    def batch(self, step: int, indices: range, device: torch.device) -> Patches:
        side, factor = self.config.patch, self.model.factor
        drawn = [self._patch(generator(self.config.seed, step, i)) for i in indices]
        shape = (self.model.channels, side // factor, side // factor)
        noise = [generator(self.config.seed, step, i, 1).standard_normal(shape, np.float32) for i in indices]
        pictures = torch.from_numpy(np.stack([p for p, _ in drawn])).permute(0, 3, 1, 2).to(device)
        weight = torch.from_numpy(np.stack([w for _, w in drawn]))[:, None].to(device)
        return Patches(pictures, weight, torch.from_numpy(np.stack(noise)).to(device), step)

    def _patch(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One augmented patch (p, p, 3) f32 in -1..1 and its weights (p, p)."""
        clip, frame = self.train.draw(rng)
        side, full = self.config.patch, self.config.resolution
        y, x = (int(rng.integers(full - side + 1)) for _ in range(2))
        if rng.random() < 0.5:  # half of the patches look at the mouth
            y = full - side - int(rng.integers(min(full - side, full // 8) + 1))
        picture = np.asarray(self.crops[clip][frame, y : y + side, x : x + side], np.float32) / 127.5 - 1
        weight = self.weight[y : y + side, x : x + side]
        if rng.random() < 0.5:
            picture, weight = picture[:, ::-1], weight[:, ::-1]
        if rng.random() < 0.7:  # a few dozen people do not show every colour: mix the channels, shift the exposure
            mix = np.eye(3, dtype=np.float32) + rng.normal(0, 0.25, (3, 3)).astype(np.float32)
            picture = picture @ mix + rng.normal(0, 0.15, 3).astype(np.float32)
        return np.clip(picture, -1, 1), np.ascontiguousarray(weight)

    def loss(self, model: nn.Module, batch: Patches) -> tuple[Tensor, dict[str, float | Tensor]]:
        rebuilt, regulariser = model(batch.pictures, batch.noise)
        rebuilt = rebuilt.float()
        error = ((rebuilt - batch.pictures).abs() * batch.weight).mean()
        figures = {"l1": error.detach(), "regulariser": regulariser.detach()}
        if self.config.perceptual_weight:
            assert self.perceptual
            perceptual = self.perceptual(rebuilt, batch.pictures).mean()
            error = error + self.config.perceptual_weight * perceptual
            figures["perceptual"] = perceptual.detach()
        scale = self.config.kl_weight * self.model.channels if self.model.kind == "kl" else 1.0
        total = error + scale * regulariser.float()
        opponent = self._opponent(batch.step)
        if opponent is None:
            return total, figures
        batch.made = rebuilt.detach()
        adversarial = -opponent.frozen(rebuilt).float().mean()
        # without gradients there is nothing to balance: a pass that only counts operations
        adaptive = adaptive_weight(error, adversarial, self.model.last) if torch.is_grad_enabled() else torch.zeros_like(error)
        figures |= {"adversarial": adversarial.detach(), "adaptive_weight": adaptive}
        return total + self.config.adversarial_weight * adaptive * adversarial, figures

    def adversary_loss(self, adversary: nn.Module, batch: Patches) -> tuple[Tensor, dict[str, float | Tensor]] | None:
        if self._opponent(batch.step) is None:
            return None
        real, made = (logits.float() for logits in adversary(batch.pictures, batch.made))
        loss = hinge_loss(real, made)
        return loss, {"discriminator": loss.detach(), "logits_real": real.detach().mean(), "logits_made": made.detach().mean()}

    def _opponent(self, step: int) -> PatchDiscriminator | None:
        """Whom the first stage must convince at this step."""
        return self.adversary if step >= self.config.adversarial_start else None

    def validate(self, model: FirstStage, device: torch.device) -> dict[str, float]:
        """PSNR in dB of reconstructions of held-out frames, whole and inside the mask."""
        inside = torch.from_numpy(mask(self.config.resolution)).to(device)
        errors, mouth = [], []
        for clip, frame in self.held_out.spread(VALIDATION_FRAMES):
            x = self._load(self.held_out_crops, [(clip, frame)], device)
            with torch.no_grad():
                error = (model.raw_decode(model.raw_encode(x)).clamp(-1, 1) - x).square().mean(1)[0]  # (H, W)
            errors.append(error.mean().item())
            mouth.append(((error * inside).sum() / inside.sum()).item())
        return {"psnr": _psnr(errors), "mouth_psnr": _psnr(mouth)}

    def sheet(self, model: FirstStage, device: torch.device) -> np.ndarray:
        """Held-out frames above their reconstructions."""
        x = self._load(self.held_out_crops, self.held_out.spread(6), device)
        with torch.no_grad():
            y = torch.cat([model.raw_decode(model.raw_encode(one[None])) for one in x])
        rows = [torch.cat(list(row), dim=-1) for row in (x, y.clamp(-1, 1))]
        return ((torch.cat(rows, dim=-2).permute(1, 2, 0).cpu().numpy() + 1) * 127.5).round().astype(np.uint8)

    def measure(self, model: FirstStage, device: torch.device, frames: int = 200) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C,) of raw latents over training frames."""
        total, squares, count = torch.zeros(()), torch.zeros(()), 0
        for place in self.train.spread(frames):
            with torch.no_grad():
                z = model.raw_encode(self._load(self.crops, [place], device)).double().cpu()[0].flatten(1)  # (C, hw)
            total, squares, count = total + z.sum(1), squares + z.square().sum(1), count + z.shape[1]
        mean = total / count
        return mean.float(), (squares / count - mean**2).clamp_min(1e-12).sqrt().float()

    @staticmethod
    def _load(crops: list[np.ndarray], places: list[tuple[int, int]], device: torch.device) -> Tensor:
        pictures = np.stack([np.asarray(crops[c][f], np.float32) for c, f in places]) / 127.5 - 1
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).to(device)


def _psnr(errors: list[float]) -> float:
    """Mean over frames of PSNR, from squared errors of values in -1..1 (peak 2)."""
    return float(np.mean([10 * np.log10(4 / max(e, 1e-10)) for e in errors]))
