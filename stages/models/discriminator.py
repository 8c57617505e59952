"""The PatchGAN discriminator that LDM trains its first stages against, and the losses of the two."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

WIDEST = 8
"""Channels grow up to this many times `width`."""
LARGEST = 1e4
"""Bound of the adaptive weight."""


class PatchDiscriminator(nn.Module):
    """Pictures (B, 3, H, W) in -1..1 -> a map of logits (B, 1, p, q), one for each overlapping patch: above 0 means real.

    Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks" (CVPR 2017), 3.2.2, with
    the figures of LDM's first stages: `layers` convolutions of stride 2, then two of stride 1, kernel 4, BatchNorm
    between, LeakyReLU 0.2.
    """

    def __init__(self, layers: int = 3, width: int = 64):
        super().__init__()
        channels = [width * min(2**n, WIDEST) for n in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for n in range(1, layers + 1):
            stride = 2 if n < layers else 1
            # BatchNorm has a bias of its own
            parts += [nn.Conv2d(channels[n - 1], channels[n], 4, stride, 1, bias=False), nn.BatchNorm2d(channels[n]), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*parts, nn.Conv2d(channels[-1], 1, 4, 1, 1))
        for part in self.net:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1, 0.02)

    def forward(self, real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of both, each batch normalised by itself."""
        return self.net(real), self.net(made)

    def frozen(self, made: Tensor) -> Tensor:
        """Logits of `made`; gradients reach the pictures and not the discriminator's own parameters."""
        return functional_call(self.net, {k: p.detach() for k, p in self.net.named_parameters()}, (made,))


def hinge_loss(real: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss () on two maps of logits: real ones are to be above 1, made ones below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """How much the adversarial loss must count for both losses to pull on the decoder's `last` weights alike: ().

    Esser, Rombach, Ommer, "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021), equation 7.
    """
    pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    return (pulls[0] / (pulls[1] + 1e-4)).clamp(0, LARGEST).detach()
