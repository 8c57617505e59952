"""What a training will cost: operations and memory counted on networks without weights, speed measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12, "L4": 121e12, "T4": 65e12}
"""Dense half-precision operations a second by the maker's data sheets, for the share of them that is used (MFU)."""
BACKWARD = 2
"""Operations of a backward pass for one of the forward pass."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one sample."""

    parameters: int
    forward_flops: int
    activation_bytes: int
    """What autograd keeps between the passes, in f32."""

    @property
    def step_flops(self) -> int:
        """Forward and backward."""
        return self.forward_flops * (1 + BACKWARD)

    def memory(self, samples: int, *, half: bool = False) -> int:
        """Bytes while training on `samples` at a time: weights, gradients, two moments, their average; activations."""
        return self.parameters * 4 * 5 + self.activation_bytes * samples // (2 if half else 1)


def count(model: nn.Module, forward: Callable[[], Tensor]) -> Cost:
    """Cost of `forward()` on one sample; model and tensors on the meta device cost nothing to count."""
    from torch.utils.flop_counter import FlopCounterMode

    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Any] = {}  # the storages themselves: a freed one's address would be used again

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return x

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        output = forward()
    assert output.requires_grad
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters=parameters, forward_flops=counter.get_total_flops(), activation_bytes=sum(s.nbytes() for s in kept.values()))


def measured_speed(device: torch.device, precision: str = "no", seconds: float = 1.0) -> float:
    """Operations a second of a convolution with its backward pass, the kind of work that these networks are."""
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    side, batch = (64, 16) if device.type == "cuda" else (32, 2)
    x = torch.randn(batch, 256, side, side, device=device, dtype=dtype, requires_grad=True)
    w = torch.randn(256, 256, 3, 3, device=device, dtype=dtype, requires_grad=True)
    flops = 2 * batch * 256 * 256 * 9 * side * side * (1 + BACKWARD)

    def once() -> None:
        F.conv2d(x, w, padding=1).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    once()
    done, begin = 0, time.perf_counter()
    while done < 3 or time.perf_counter() - begin < seconds:
        once()
        done += 1
    return flops * done / (time.perf_counter() - begin)


def peak_speed(device: torch.device) -> float | None:
    """The data sheet's operations a second of this GPU; None for one that PEAK does not know, and for a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((speed for key, speed in PEAK.items() if key in name), None)


def describe(cost: Cost, *, batch: int, samples: int, steps: int, speed: float, half: bool, where: str) -> list[str]:
    """Lines for a person. `samples` are on one device at a time, `speed` is measured_speed()."""
    seconds = cost.step_flops * batch * steps / speed
    forward, both = cost.forward_flops / 1e9, cost.step_flops / 1e9
    return [
        f"{cost.parameters:,} parameters; {forward:.1f} GFLOPs a sample forward, {both:.1f} with backward",
        f"memory for {samples} samples at a time: about {cost.memory(samples, half=half) / 2**30:.1f} GiB",
        f"{where}: {speed / 1e9:,.0f} GFLOP/s measured on a convolution, so about {duration(seconds)} "
        f"for {steps:,} steps of {batch}",
    ]


def duration(seconds: float) -> str:
    """2.5 h, 3 min."""
    for size, name in ((86_400 * 2, "days"), (3600 * 1.5, "h"), (90, "min")):
        if seconds >= size:
            return f"{seconds / {'days': 86_400, 'h': 3600, 'min': 60}[name]:.1f} {name}"
    return f"{seconds:.0f} s"
