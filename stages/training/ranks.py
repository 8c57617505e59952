"""Several processes of one training (torchrun, accelerate launch): one writes, and all do the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from stages.runtime import Runtime, process_count, process_rank

T = TypeVar("T")


def start(runtime: Runtime) -> None:
    """Join the other processes, if there are any. Call before the first `agree`."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState(cpu=runtime.torch_device().type == "cpu")


def agree(decide: Callable[[], T]) -> T:
    """What the first process decides, in every process. Alone: just that."""
    if process_count() == 1:
        return decide()
    from accelerate.utils import broadcast_object_list

    box: list[Any] = [decide() if process_rank() == 0 else None]
    return broadcast_object_list(box)[0]


def wait() -> None:
    """Until every process is here."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
