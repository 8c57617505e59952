"""Several processes of one training give what one gives, and only the first writes and speaks."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages import train, train_vae
from stages.runtime import Runtime
from tests.small import make_training_data

ROOT = Path(__file__).parents[2]
STEPS = 20


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    root = make_training_data(tmp_path_factory.mktemp("ranks") / "work", clips=3, frames=12)
    train_vae.run(train_vae.Config(preset="tiny", steps=1, batch=2, patch=32), root, None, Runtime())
    return root


def two_processes(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "difftalk_cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def options(config: train.Config) -> list[str]:
    names = ("preset", "steps", "batch", "learning_rate", "save_every", "validate_every")
    given = {n: getattr(config, n) for n in names if getattr(config, n) is not None}
    return [word for n, value in given.items() for word in (f"--{n.replace('_', '-')}", str(value))]


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(work, tmp_path):
    config = train.Config(preset="tiny", steps=STEPS, batch=4, learning_rate=1e-4, save_every=STEPS, validate_every=STEPS)
    train.run(config, train.Inputs(work), tmp_path / "one", Runtime(device="cpu"))
    for latents in work.glob("latents-*"):  # two processes build them together, too
        latents.rename(tmp_path / "latents of one")
    done = two_processes("train", str(work), "--out", str(tmp_path / "two"), "--device", "cpu", *options(config))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [str(tmp_path / "two")]
    one, two = (load_file(tmp_path / name / "state" / f"step-{STEPS:09d}" / "model.safetensors") for name in ("one", "two"))
    start = train.run(replace(config, steps=1), train.Inputs(work), tmp_path / "start", Runtime(device="cpu"))
    before = load_file(start.out / "state" / "step-000000001" / "model.safetensors")
    assert one.keys() == two.keys()
    assert max((one[k] - two[k]).abs().max().item() for k in one) < 1e-5
    assert max((one[k] - before[k]).abs().max().item() for k in one) > 1e-4, "they must have moved"
    losses = [json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1]) for name in ("one", "two")]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], abs=1e-4)
    [latents] = work.glob("latents-*")
    assert json.loads((latents / "artifact.json").read_text())["clips"]["failed"] == []


@pytest.mark.slow
def test_two_processes_stop_together_when_time_is_up(work, tmp_path):
    config = train.Config(preset="tiny", steps=100_000, batch=2, save_every=50_000, validate_every=50_000)
    done = two_processes("train", str(work), "--out", str(tmp_path / "d"), "--device", "cpu", "--max-minutes", "0.05", *options(config))
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads((tmp_path / "d" / "artifact.json").read_text())["facts"]
    assert not facts["finished"] and 0 < facts["steps"] < 100_000
    assert all(torch.isfinite(x).all() for x in load_file(tmp_path / "d" / "model.safetensors").values())


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out_is_a_usage_error(work, tmp_path):
    done = two_processes("train", str(work), "--out", str(tmp_path / "d"), "--device", "cpu", "--batch", "3")
    assert done.returncode != 0 and "--batch 3: must be a multiple" in done.stderr
