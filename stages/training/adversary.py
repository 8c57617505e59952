"""A second network that is trained against a task's model: its optimiser, its step, its part of a training state."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

BETAS = (0.5, 0.9)
"""Of its Adam (LDM)."""


class AdversarialTask(Protocol):
    """What a training.loop.Task has besides, if something is trained against its model."""

    adversary: nn.Module | None
    """None: nothing is."""

    def adversary_loss(self, adversary: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float | Tensor]] | None:
        """(scalar loss, figures to log) on a batch that `loss` has seen; None while the adversary rests."""
        ...


class Adversary:
    """`module` and `optimizer` go into training states; `step` follows the model's own step."""

    def __init__(self, task: AdversarialTask, device: torch.device):
        assert task.adversary is not None
        self.task, self.module = task, task.adversary.to(device)
        self.wrapped: Any = self.module
        self.optimizer: Any = torch.optim.Adam(self.module.parameters(), betas=BETAS)

    def prepare(self, accelerator: Any) -> None:
        """Share it out over the processes; its state must be loaded by then."""
        self.wrapped, self.optimizer = accelerator.prepare(self.module, self.optimizer)

    def step(self, batches: Sequence[Any], learning_rate: float, accelerator: Any) -> dict[str, float | Tensor]:
        """One optimiser step on the pieces of a batch; returns figures to log, none while it rests."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        figures: dict[str, float | Tensor] = {}
        for batch in batches:
            with nullcontext() if batch is batches[-1] else accelerator.no_sync(self.wrapped):
                with accelerator.autocast():
                    found = self.task.adversary_loss(self.wrapped, batch)
                if found is None:
                    return {}
                loss, figures = found
                accelerator.backward(loss / len(batches))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return figures
