from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from stages.errors import ArtifactError
from stages.runtime import Runtime
from stages.speech.mfcc import mfcc_rows, network_input, whitening
from stages.speech.training.corpus import LIPS
from stages.speech.training.network import AcousticModel, Sizes
from stages.speech.training.task import (
    ALPHABET,
    BLANK,
    COMPONENTS,
    AcousticTask,
    collate,
    edits,
    fit_projection,
    greedy,
    losses,
    read_pool,
    whiten,
)  # fmt: skip
from stages.training.loop import LoopConfig, fit
from tests.speech.sounds import speech_like

SMALL = Sizes(dense=16, lstm=12, hidden=8)
CPU = torch.device("cpu")


def write_shard(path, seed: int, utterances: int = 6, texts: bool = True, lips: bool = True) -> None:
    rng = np.random.default_rng(seed)
    rows = [int(n) for n in rng.integers(60, 140, utterances)]
    n = sum(rows)
    shape = rng.normal(size=(n, len(LIPS))).astype(np.float32)
    lines = [{"rows": r, "speaker": "x", "text": "hello you" if texts else "", "held_out": False} for r in rows]
    np.savez(
        path, teacher=(rng.normal(size=(n, 384)) * np.linspace(3, 0.1, 384)).astype(np.float16),
        lips=shape if lips else np.full_like(shape, np.nan), utterances=np.frombuffer(json.dumps(lines).encode(), np.uint8),
        **{f"mfcc{k}": rng.normal(size=(n, 26)).astype(np.float32) for k in range(2)},
    )  # fmt: skip


@pytest.fixture
def task(tmp_path) -> AcousticTask:
    for name, seed, texts, lips in (("clips-0", 0, True, True), ("prompts-0-0", 1, False, False), ("held-clips", 2, True, True)):
        write_shard(tmp_path / f"{name}.npz", seed, texts=texts, lips=lips)
    with np.load(tmp_path / "clips-0.npz") as data:
        projection = fit_projection(iter([data["teacher"]]))
    pool = read_pool([tmp_path / "clips-0.npz", tmp_path / "prompts-0-0.npz"], projection)
    return AcousticTask(pool, {"clips": read_pool([tmp_path / "held-clips.npz"], projection)}, SMALL, seed=3)


def test_training_feeds_the_network_what_inference_feeds_it():
    rows = mfcc_rows(speech_like(2.0))
    wanted = network_input(rows, whitening(rows))  # (K, 494)
    model = AcousticModel(SMALL, 4, len(LIPS))
    seen = []
    model.h1.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(torch.from_numpy(whiten(rows.astype(np.float32)))[None])
    # the padding is 0 after whitening there and 0 before it here: the mean's worth apart, at the nine rows of each end
    assert np.allclose(seen[0][0, 9:-9].detach(), wanted[9:-9], atol=1e-4)


def test_a_batch_depends_on_step_and_place_only(task):
    a, b = task.batch(5, range(4), CPU), task.batch(5, range(4), CPU)
    assert all(torch.equal(torch.nan_to_num(a[k]), torch.nan_to_num(b[k])) for k in a)
    half = task.batch(5, range(2, 4), CPU)
    assert torch.equal(half["counts"], a["counts"][2:])
    n = int(half["counts"][0])
    assert torch.equal(half["mfcc"][0, :n], a["mfcc"][2, :n])
    assert any(not torch.equal(task.batch(s, range(4), CPU)["counts"], a["counts"]) for s in range(6, 12))


def test_padding_and_what_is_unknown_count_for_nothing():
    rng = np.random.default_rng(0)
    items = [
        (rng.normal(size=(n, 26)), rng.normal(size=(n, COMPONENTS)), np.full((n, len(LIPS)), np.nan), np.array([], np.int64))
        for n in (30, 50)
    ]
    batch = collate(items, CPU)
    out = {
        f"{k}_of_{j}": torch.full((2, 50, n), 7.0) for k, n in (("teacher", COMPONENTS), ("lips", len(LIPS))) for j in ("hidden", "logits")
    }
    found = losses({**out, "logits": torch.zeros(2, 50, 29)}, batch)
    assert found["ctc"] == found["lips"] == found["lips_of_logits"] == 0
    wanted = np.concatenate([(7 - y) ** 2 for _, y, *_ in items]).mean()
    assert float(found["teacher"]) == pytest.approx(wanted, rel=1e-5)


def test_training_lowers_every_loss_and_goes_on_where_it_was(task, tmp_path):
    steps = {"batch": 4, "learning_rate": 3e-3, "warmup": 1, "save_every": 10, "validate_every": 30}
    whole = fit(task, LoopConfig(steps=30, **steps), tmp_path / "whole", Runtime(device="cpu"), "key")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"clips/letter_errors", "clips/left_hidden", "clips/lips_logits"} <= lines[-1].keys()
    batch = task.batch(0, range(4), CPU)
    fresh = AcousticTask(task.train, task.held_out, SMALL, seed=3)
    before, after = (losses(m(batch["mfcc"]), batch) for m in (fresh.model.eval(), whole.ema.eval()))
    assert after["ctc"] < before["ctc"] and after["teacher"] < before["teacher"]
    fit(fresh, LoopConfig(steps=20, **steps), tmp_path / "parts", Runtime(device="cpu"), "key")
    again = AcousticTask(task.train, task.held_out, SMALL, seed=3)
    parts = fit(again, LoopConfig(steps=30, **steps), tmp_path / "parts", Runtime(device="cpu"), "key")
    assert parts.step == 30
    for name, weight in whole.ema.state_dict().items():
        # dropout draws from torch's generator, which a resumed run restarts: the weights agree in kind, not to the bit
        assert parts.ema.state_dict()[name].shape == weight.shape and torch.isfinite(parts.ema.state_dict()[name]).all()


def test_the_projection_keeps_the_largest_components_and_tempers_them():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(384, 384)))[0]
    x = (rng.normal(size=(3000, 384)) * np.geomspace(10, 0.01, 384)) @ basis.T + 5
    p = fit_projection(iter([x[:1500], x[1500:]]))
    y = (x - p.mean) @ p.matrix
    deviation = y.std(0)
    assert y.shape[1] == COMPONENTS and np.all(np.diff(deviation) < 0.02)
    assert deviation[0] / deviation[40] == pytest.approx((10 / np.geomspace(10, 0.01, 384)[40]) ** 0.5, rel=0.1)
    assert np.abs(np.corrcoef(y.T) - np.eye(COMPONENTS)).max() < 0.01


@pytest.mark.parametrize("a, b, distance", [("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("same", "same", 0), ("ab", "ba", 2)])
def test_edit_distance(a, b, distance):
    assert edits([ord(c) for c in a], [ord(c) for c in b]) == distance


def test_greedy_drops_repeats_and_blanks():
    path = [BLANK, 8, 8, BLANK, 5, 12, BLANK, 12, 15, 15]
    logits = np.eye(29)[path]
    assert "".join(ALPHABET[i] for i in greedy(logits)) == "hello"


def test_a_damaged_shard_is_named(tmp_path):
    write_shard(tmp_path / "clips-0.npz", 0)
    with np.load(tmp_path / "clips-0.npz") as data:
        projection = fit_projection(iter([data["teacher"]]))
    (tmp_path / "clips-0.npz").write_bytes((tmp_path / "clips-0.npz").read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="clips-0.npz"):
        read_pool([tmp_path / "clips-0.npz"], projection)
