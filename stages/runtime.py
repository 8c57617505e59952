"""What a run may vary without changing its result: device, workers, reporting. Never hashed into a fingerprint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from stages.errors import UsageError


class Progress(Protocol):
    """A bar under way."""

    def advance(self, n: float = 1) -> None: ...

    def note(self, text: str) -> None:
        """Show a short text (a loss, a clip's name) beside the bar."""


class Reporter:
    """Where a stage says what it does. This one is silent; the command line has one that draws with rich."""

    def log(self, message: str) -> None:
        """An ordinary line, such as the reason why a clip is redone."""

    def warn(self, message: str) -> None:
        """Something the user should know although the run goes on."""

    @contextmanager
    def progress(self, title: str, total: float | None, unit: str = "") -> Iterator[Progress]:
        """A bar of `total` units, with rate and time left."""
        yield _Silent()


class _Silent:
    def advance(self, n: float = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def process_rank() -> int:
    """Which process of a training this is (torchrun and accelerate set RANK); 0 alone."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """How many processes one training has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one worker of a stage takes from a cluster; each stage declares its own."""

    cpus: int = 1
    """Processor cores, and the threads that its networks get."""
    gpus: float = 0.0
    """Share of a GPU, where the cluster has some and --device lets it use them; 0: it has no use for one."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How to run, not what to make."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    workers: int = 1
    """Processes for per-clip work."""
    force: bool = False
    """Redo what is already there."""
    dry_run: bool = False
    """Print the plan and change nothing."""
    shard: tuple[int, int] | None = None
    """(i, n) with 0 <= i < n: only the clips of this share, for cluster arrays."""
    merge: bool = False
    """Make nothing: check that the shards have made everything, and seal."""
    ray: str | None = None
    """Share the clips out over a Ray cluster: auto (the one that this machine belongs to) or its HOST:PORT."""
    offline: bool = False
    """Never fetch anything from the network."""
    threads: int | None = None
    """Processor threads of the networks; None: all."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the networks in inference."""
    max_minutes: float | None = None
    """Training stops cleanly after this long; the same command goes on later."""
    accumulate: int = 1
    """Training: pieces that each process cuts its share of a batch into; less memory, the same result."""
    gradient_checkpointing: bool = False
    """Training: compute activations again instead of keeping them; less memory, slower."""
    compile: bool = False
    """Compile the network with torch.compile; a slow start, faster steps."""
    reporter: Reporter = field(default_factory=Reporter)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: needs at least 1")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads {self.threads}: needs at least 1")
        if self.accumulate < 1:
            raise UsageError(f"--accumulate {self.accumulate}: needs at least 1")
        if self.merge and (self.shard or self.force):
            raise UsageError(f"--merge makes nothing: leave {'--shard' if self.shard else '--force'} away")
        if self.ray is not None and self.ray != "auto" and not re.fullmatch(r"[^/\s]+:\d+", self.ray):
            raise UsageError(f"--ray {self.ray}: needs auto or HOST:PORT, on a machine of the cluster; Ray's client (ray://) will not do")
        if self.shard and not 0 <= self.shard[0] < self.shard[1]:
            raise UsageError(f"--shard {self.shard[0]}/{self.shard[1]}: needs I/N with 0 <= I < N")

    @property
    def elsewhere(self) -> bool:
        """Whether clips are made by other processes than this one, which open their networks themselves."""
        return self.workers > 1 or self.ray is not None

    def threads_of_a_worker(self, needs: Needs) -> int:
        """Processor threads for the networks of one worker process; 0: this process alone, which may use them all."""
        if self.ray is not None:
            return needs.cpus
        return 0 if self.workers == 1 else max(1, (os.cpu_count() or 1) // self.workers)

    def torch_device(self) -> Any:
        """The torch.device to use. Raises UsageError when a named device is absent."""
        import torch  # kept out of start-up: `difftalk --help` must not wait for it

        if self.device == "auto":
            if torch.cuda.is_available():
                return torch.device("cuda")
            mps = getattr(torch.backends, "mps", None)
            return torch.device("mps" if mps and mps.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError:
            raise UsageError(f"--device {self.device}: not a device name; use auto, cpu, cuda, cuda:N or mps") from None
        if device.type not in ("cpu", "cuda", "mps"):
            raise UsageError(f"--device {self.device}: not a device that this program runs on; use auto, cpu, cuda, cuda:N or mps")
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"--device {self.device}: no CUDA device is visible; use --device auto or cpu")
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise UsageError(f"--device {self.device}: only {torch.cuda.device_count()} visible, counted from 0; use --device auto or cpu")
        if device.type == "mps" and not torch.backends.mps.is_available():
            raise UsageError(f"--device {self.device}: this machine has none; use --device auto or cpu")
        return device


@dataclass(kw_only=True)
class Report:
    """What a stage did."""

    out: Path
    """The artifact directory or file that was made."""
    done: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Unit -> why."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Figures worth telling: counts, seconds, scores."""

    @property
    def exit_code(self) -> int:
        """0 when all is there, 4 when some clips failed, 3 when none could be used."""
        if not self.failed:
            return 0
        return 4 if self.done + self.skipped else 3
