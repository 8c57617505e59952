"""The training loop: accelerate underneath, exact resume, EMA, validation, logs, sample sheets."""

from __future__ import annotations

import json
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from stages.errors import DiffTalkError, UsageError
from stages.runtime import Runtime
from stages.training import checkpoint
from stages.training.adversary import Adversary
from stages.training.ema import Ema
from stages.training.estimate import BACKWARD, peak_speed
from stages.training.order import generator

Precision = Literal["no", "bf16", "fp16"]
Final = Literal["last", "best"]
AGREE_EVERY = 10
"""Steps after which several processes ask each other whether to stop."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How to optimise."""

    steps: int
    """Optimiser steps in all."""
    batch: int
    """Samples in a global batch, over all processes."""
    learning_rate: float
    warmup: int = 100
    """Steps over which the learning rate rises from zero."""
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW, which without weight decay is Adam."""
    clip_gradient: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.999
    precision: Precision = "no"
    """Arithmetic of the forward pass: no (fp32), bf16 or fp16."""
    save_every: int = 1000
    validate_every: int = 500
    final: Final = "last"
    """Which averaged weights become the model: the last, or the best by validation."""
    seed: int = 0

    @classmethod
    def of(cls, config: Any) -> LoopConfig:
        """The part of a stage's Config that concerns the loop: fields of the same names."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)})

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.save_every, self.validate_every) < 1:
            raise UsageError("--steps, --batch, --save-every and --validate-every: must be at least 1")
        if not 0 <= self.ema < 1:
            raise UsageError(f"--ema {self.ema}: must be at least 0 and below 1")


class Task(Protocol):
    """What is trained. `batch` is a pure function of its arguments; `indices` are places in the global batch.

    A task with an `adversary` is a training.adversary.AdversarialTask, too.
    """

    model: nn.Module
    criterion: tuple[str, int]
    """The validation score that the best weights are chosen by, and 1 if more of it is better, -1 if less."""

    def batch(self, step: int, indices: range, device: torch.device) -> Any: ...

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float | Tensor]]:
        """(scalar loss, figures to log)."""
        ...

    def validate(self, model: nn.Module, device: torch.device) -> dict[str, float]: ...

    def sheet(self, model: nn.Module, device: torch.device) -> np.ndarray | None:
        """(H, W, 3) u8 picture of samples."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How training ended: `finished` is False when it stopped for time."""

    ema: nn.Module
    step: int
    finished: bool
    scores: dict[str, float]


def fit(task: Task, config: LoopConfig, root: Path, runtime: Runtime, key: str) -> Outcome:
    """Train `task` in the folder `root`, going on from its newest state.

    `key` names everything that must be the same for a state to be continued; the caller checks it. Under
    `accelerate launch` or `torchrun` the global batch is shared out, and each sample is drawn as in a single process;
    `runtime.accumulate` cuts a process's share into pieces that go through the network one after the other.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    if config.precision == "fp16" and runtime.torch_device().type != "cuda":
        raise UsageError("--precision fp16: needs a CUDA device; use bf16 or no")
    accelerator = Accelerator(mixed_precision=config.precision, cpu=runtime.torch_device().type == "cpu")
    if config.batch % (accelerator.num_processes * runtime.accumulate):
        raise UsageError(
            f"--batch {config.batch}: must be a multiple of the {accelerator.num_processes} processes"
            + (f" times --accumulate {runtime.accumulate}" if runtime.accumulate > 1 else "")
        )
    set_seed(config.seed)
    model = task.model.to(accelerator.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay)
    adversary = Adversary(task, accelerator.device) if getattr(task, "adversary", None) else None  # type: ignore[arg-type]
    ema, step = Ema(model, config.ema), 0
    log = runtime.reporter.log
    if found := checkpoint.states(root):
        step = checkpoint.load_state(found[-1], model=model, ema=ema.model, optimizer=optimizer, adversary=adversary)["step"]
        log(f"going on from {found[-1].name}")
    if runtime.gradient_checkpointing:
        _checkpoint_gradients(model)
    wrapped, optimizer = accelerator.prepare(torch.compile(model) if runtime.compile else model, optimizer)
    if adversary:
        adversary.prepare(accelerator)
    share = config.batch // accelerator.num_processes
    indices = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    pieces = [indices[i : i + share // runtime.accumulate] for i in range(0, share, share // runtime.accumulate)]
    peak = peak_speed(accelerator.device)
    flops = _step_flops(task, model, pieces[0], accelerator) * len(pieces) if peak else 0
    journal = Journal(root, step) if accelerator.is_main_process else None
    deadline = time.monotonic() + runtime.max_minutes * 60 if runtime.max_minutes is not None else float("inf")
    started, begin, scores, saved = step, time.monotonic(), {}, step

    def save() -> None:
        nonlocal saved
        if step > saved and accelerator.is_main_process:
            parts = {"model": model, "ema": ema.model, "optimizer": optimizer, "adversary": adversary}
            checkpoint.save_state(root, step, **parts, meta={"key": key})
            saved = step

    with runtime.reporter.progress("train", config.steps, "steps") as bar, _Stop() as stop:
        bar.advance(step)
        while step < config.steps and not _agreed(time.monotonic() >= deadline or stop.asked, step, accelerator):
            learning_rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            # Dropout draws from torch's generator: a resumed run must draw what it would have.
            torch.manual_seed(int(generator(config.seed, step, indices.start, DROPOUT).integers(1 << 62)))
            tick, waited, loss, figures = time.monotonic(), 0.0, torch.zeros((), device=accelerator.device), {}
            seen: list[Any] = []
            for piece in pieces:
                begun = time.monotonic()
                batch = task.batch(step, piece, accelerator.device)
                waited += time.monotonic() - begun
                # gradients are shared out once a step, after the last piece
                with nullcontext() if piece is pieces[-1] else accelerator.no_sync(wrapped):
                    with accelerator.autocast():
                        part, figures = task.loss(wrapped, batch)
                    accelerator.backward(part / len(pieces))
                loss += part.detach() / len(pieces)
                if adversary:
                    seen.append(batch)
            norm = accelerator.clip_grad_norm_(wrapped.parameters(), config.clip_gradient)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if adversary:
                figures |= adversary.step(seen, learning_rate, accelerator)
            ema.update(model, step)
            step += 1
            if not torch.isfinite(loss):
                raise DiffTalkError(f"step {step}: the loss is {loss.item()}; lower --learning-rate or use --precision no")
            bar.advance(1)
            bar.note(f"loss {loss.item():.4f}")
            if journal:
                took = time.monotonic() - tick
                rates = {"data_share": waited / took, "samples_per_second": config.batch / took}
                rates |= {"mfu": flops / took / peak} if peak else {}
                journal.add(step, loss=loss, gradient_norm=norm, **rates, **figures)
            if step % config.validate_every == 0 or step == config.steps:
                scores = _validate(task, ema.model, journal, step, accelerator, log)
                if journal and checkpoint.keep_best(root, step, ema.model, scores, *task.criterion):
                    log(f"step {step}: the best so far by {task.criterion[0]}")
            if step % config.save_every == 0:
                save()
    save()
    if stop.asked:
        log(f"stopped at step {step}; the same command goes on from there")
        raise KeyboardInterrupt
    if accelerator.is_main_process:
        if not scores:
            scores = _validate(task, ema.model, journal, step, accelerator, log)
        assert journal
        journal.close()
        minutes = (time.monotonic() - begin) / 60
        log(f"{step - started} steps in {minutes:.1f} min, {step} of {config.steps} done")
        if config.final == "best" and (best := checkpoint.load_best(root, ema.model)):
            scores = best["scores"]
            log(f"the model is the average of step {best['step']}, the best by {task.criterion[0]}")
    accelerator.wait_for_everyone()
    return Outcome(ema.model, step, step >= config.steps, scores)


DROPOUT = 0x0D0
"""Keeps the draws of dropout apart from the task's own draws at the same step and place."""


def _agreed(stop: bool, step: int, accelerator: Any) -> bool:
    """Whether to stop before `step`: of several processes, as soon as one wants to, and all at the same step."""
    if accelerator.num_processes == 1:
        return stop
    if step % AGREE_EVERY:
        return False
    return bool(accelerator.gather(torch.tensor([float(stop)], device=accelerator.device)).max() > 0)


def _checkpoint_gradients(model: nn.Module) -> None:
    able = [m for m in model.modules() if hasattr(m, "enable_gradient_checkpointing")]
    if not able:
        raise UsageError("--gradient-checkpointing: this network has nothing to recompute")
    for module in able:
        module.enable_gradient_checkpointing()


def _step_flops(task: Task, model: nn.Module, piece: range, accelerator: Any) -> int:
    """Operations of one piece forward and backward, counted on one forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), accelerator.autocast(), FlopCounterMode(display=False) as counter:
        task.loss(model, task.batch(0, piece, accelerator.device))
    return counter.get_total_flops() * (1 + BACKWARD)


class _Stop:
    """Ctrl-C is answered between two steps, where the state is whole; a second one at once. A context manager."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Stop:
        self.before = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)


def _validate(task: Task, model: nn.Module, journal: Journal | None, step: int, accelerator: Any, log: Any) -> dict[str, float]:
    if not journal:
        return {}
    with torch.no_grad():
        scores = task.validate(model, accelerator.device)
        sheet = task.sheet(model, accelerator.device)
    journal.add_scores(step, scores)
    if sheet is not None:
        journal.add_sheet(step, sheet)
    log(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in scores.items()))
    return scores


class Journal:
    """log.jsonl (means over 50 steps, validation scores), tb/ for tensorboard, samples/ with sheets."""

    EVERY = 50

    def __init__(self, root: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.root = root
        (root / "samples").mkdir(parents=True, exist_ok=True)
        self.path = root / "log.jsonl"
        self._forget_after(step)
        self.board = SummaryWriter(str(root / "tb"), purge_step=step or None)
        self.sums: dict[str, list[float]] = {}

    def _forget_after(self, step: int) -> None:
        """Lines beyond the state that we go on from would be written twice."""
        if not self.path.is_file():
            return
        lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        self.path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def add(self, step: int, **figures: float | Tensor) -> None:
        for name, value in figures.items():
            self.sums.setdefault(name, []).append(value.item() if isinstance(value, Tensor) else value)
        if step % self.EVERY == 0:
            self._write(step, {k: float(np.mean(v)) for k, v in self.sums.items()}, "train")
            self.sums.clear()

    def add_scores(self, step: int, scores: dict[str, float]) -> None:
        self._write(step, scores, "validation")

    def add_sheet(self, step: int, sheet: np.ndarray) -> None:
        from PIL import Image

        Image.fromarray(sheet).save(self.root / "samples" / f"step-{step:09d}.png")
        self.board.add_image("samples", sheet, step, dataformats="HWC")

    def _write(self, step: int, figures: dict[str, float], kind: str) -> None:
        with self.path.open("a", encoding="utf-8") as f:
            f.write(json.dumps({"step": step, "kind": kind, **{k: round(v, 6) for k, v in figures.items()}}) + "\n")
        for name, value in figures.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        self.board.close()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 1 << 62  # torn by a kill: drop it
