"""Whole training states as folders that appear by one rename: state/step-000012000/."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from stages.artifacts.files import make_folder, read_json, remove_tree, replace_tree, write_atomic
from stages.errors import ArtifactError
from stages.models.vae import FirstStage, rebuild_first_stage
from stages.training.adversary import Adversary

KEEP_LAST = 2


def save_weights(path: Path, model: nn.Module, *, dtype: torch.dtype | None = None) -> None:
    """Write a model's state as safetensors, whole or not at all."""
    tensors = {
        k: (v.to(dtype) if dtype and v.is_floating_point() else v).detach().cpu().contiguous() for k, v in model.state_dict().items()
    }
    with write_atomic(path) as part:
        part.write_bytes(save(tensors))  # save_file would leave the file readable by its owner only


def load_weights(path: Path, model: nn.Module) -> None:
    """Strict: every tensor must fit. Raises ArtifactError when the file is damaged or belongs to another model."""
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch each raise their own kinds
        raise ArtifactError(f"{path}: these weights cannot be loaded ({str(error).splitlines()[0]})") from error


def load_first_stage(folder: Path) -> FirstStage:
    """The first stage in `folder` (model.safetensors, config.json), in eval mode, frozen, on the CPU."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = rebuild_first_stage(config)
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{folder}: not a first stage ({error}); make one with `difftalk train-vae`") from error
    load_weights(folder / "model.safetensors", model)
    return model.requires_grad_(False).eval()


def save_state(
    root: Path, step: int, *, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, meta: dict[str, Any],
    adversary: Adversary | None = None,
) -> None:  # fmt: skip
    """Write state/step-N aside and rename it; keep the last two."""
    folder, temp = root / "state", root / ".tmp-state"
    remove_tree(temp)
    built = temp / f"step-{step:09d}"
    make_folder(built)
    save_weights(built / "model.safetensors", model)
    save_weights(built / "ema.safetensors", ema)
    torch.save(optimizer.state_dict(), built / "optimizer.pt")
    if adversary:
        save_weights(built / "adversary.safetensors", adversary.module)
        torch.save(adversary.optimizer.state_dict(), built / "adversary-optimizer.pt")
    (built / "state.json").write_text(json.dumps({"step": step, **meta}), encoding="utf-8")
    replace_tree(built, folder / built.name, temp / "trash")
    remove_tree(temp)
    for old in states(root)[:-KEEP_LAST]:
        remove_tree(old)


def keep_best(root: Path, step: int, ema: nn.Module, scores: dict[str, float], name: str, sign: int) -> bool:
    """Keep state/best/ when scores[name] beats what is there (sign 1: more is better); says whether it did."""
    folder = root / "state" / "best"
    before = read_json(folder / "state.json")
    if name not in scores or (before is not None and sign * scores[name] <= sign * before["scores"][name]):
        return False
    temp = root / ".tmp-best"
    remove_tree(temp)
    make_folder(temp / "best")
    save_weights(temp / "best" / "model.safetensors", ema)
    (temp / "best" / "state.json").write_text(json.dumps({"step": step, "scores": scores}), encoding="utf-8")
    make_folder(folder.parent)
    replace_tree(temp / "best", folder, temp / "trash")
    remove_tree(temp)
    return True


def load_best(root: Path, ema: nn.Module) -> dict[str, Any] | None:
    """Load the best averaged weights; returns their step and scores, None when none were kept."""
    folder = root / "state" / "best"
    kept = read_json(folder / "state.json")
    if kept is not None:
        load_weights(folder / "model.safetensors", ema)
    return kept


def states(root: Path) -> list[Path]:
    """Whole states, oldest first. A folder under its final name is whole: it came by rename."""
    found = [p for p in (root / "state").glob("step-*") if re.fullmatch(r"step-\d{9}", p.name) and (p / "state.json").is_file()]
    return sorted(found)


def load_state(
    folder: Path, *, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, adversary: Adversary | None = None
) -> dict[str, Any]:
    """Load one state; returns its meta. Nothing pickled is loaded without weights_only."""
    load_weights(folder / "model.safetensors", model)
    load_weights(folder / "ema.safetensors", ema)
    optimizers = {"optimizer.pt": optimizer}
    if adversary:
        load_weights(folder / "adversary.safetensors", adversary.module)
        optimizers["adversary-optimizer.pt"] = adversary.optimizer
    try:
        for name, one in optimizers.items():
            one.load_state_dict(torch.load(folder / name, map_location="cpu", weights_only=True))
        return json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except Exception as error:
        raise ArtifactError(f"{folder}: this training state cannot be loaded ({error}); delete it to go on from the one before") from error
