"""SyncNet's arithmetic with its sign, the clock of 25 frames a second, and the meter that feeds the expert."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.metrics.heard import FEWEST, ExpertMeter
from stages.metrics.sync import SYNC_RATE, VSHIFT, offsets, sync_score, ticks
from tests.metrics.test_mouth import face


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 16)).astype(np.float32)


@pytest.mark.parametrize("k", [-7, -1, 0, 3, 15])
def test_an_offset_of_k_says_that_the_sound_comes_k_frames_before_its_mouth(k: int) -> None:
    sound = embeddings(120)
    lips = np.roll(sound, k, axis=0)  # the mouth of sound i is seen at frame i + k
    score = sync_score(lips + 0.1 * embeddings(120, 1), sound)
    assert score.offset == k
    assert score.confidence > 2 and score.distance < score.confidence
    assert score.curve.shape == offsets().shape == (2 * VSHIFT + 1,)
    assert offsets()[score.curve.argmin()] == k and score.curve.min() == pytest.approx(score.distance)


def test_the_arithmetic_is_the_releases() -> None:
    lips, sound = torch.from_numpy(embeddings(60)), torch.from_numpy(embeddings(60, 1))
    padded = torch.nn.functional.pad(sound, (0, 0, VSHIFT, VSHIFT))
    rows = [torch.nn.functional.pairwise_distance(lips[[i]].repeat(31, 1), padded[i : i + 31]) for i in range(60)]
    curve = torch.stack(rows, 1).mean(1)
    least, place = torch.min(curve, 0)
    score = sync_score(lips.numpy(), sound.numpy())
    assert score.offset == VSHIFT - int(place)
    assert score.distance == pytest.approx(float(least), abs=1e-5)
    assert score.confidence == pytest.approx(float(torch.median(curve) - least), abs=1e-5)
    np.testing.assert_allclose(score.curve, curve.numpy(), atol=1e-5)


@pytest.mark.parametrize("fps", [24000 / 1001, 24, 25, 30000 / 1001, 30, 50, 60])
def test_every_40_ms_the_frame_nearest_in_time_is_taken(fps: float) -> None:
    shown = [frame for frame in range(round(10 * fps)) for _ in range(ticks(frame, fps))]
    nearest = np.floor(np.arange(len(shown)) * fps / SYNC_RATE + 0.5 + 1e-9)
    assert abs(len(shown) - 10 * SYNC_RATE) <= 1
    np.testing.assert_array_equal(shown, nearest)


class Known:
    """An expert to which the lips' shape is the sound."""

    def lips(self, shapes: torch.Tensor) -> torch.Tensor:
        return shapes[:, :1]

    def sound(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[:, :1, ::2]


def meter_that_hears(opening: np.ndarray, monkeypatch) -> ExpertMeter:
    from stages.metrics import expert
    from stages.speech import mel

    heard = (opening - opening.mean()) / opening.std()
    monkeypatch.setattr(expert, "load_expert", Known)
    monkeypatch.setattr(mel, "log_mel", lambda samples: np.repeat(heard, 2)[:, None].astype(np.float32))
    return ExpertMeter(2, 25.0)  # `face` has eyes 1 apart


@pytest.mark.parametrize("late", [-4, 0, 5])
def test_lips_are_compared_with_what_is_heard(late: int, monkeypatch) -> None:
    opening = np.convolve(np.random.default_rng(3).random(110), np.ones(3) / 3, "valid")
    meter = meter_that_hears(opening, monkeypatch)
    for i, value in enumerate(np.roll(opening, late)):
        meter.add(np.zeros((4, 4, 3), np.uint8), None, None if i % 20 == 7 else face(0.3 * value))  # some frames show no face
    score = meter.score(np.zeros(100_000, np.int16))
    assert score and score.offset == late
    assert score.distance < 0.4 and score.confidence > 0.5


def test_too_little_to_tell_is_no_score(monkeypatch) -> None:
    meter = meter_that_hears(np.random.default_rng(0).random(200), monkeypatch)
    for i in range(FEWEST - 1):
        meter.add(np.zeros((4, 4, 3), np.uint8), None, face(0.01 * i))
    assert meter.score(np.zeros(100_000, np.int16)) is None
    meter.add(np.zeros((4, 4, 3), np.uint8), None, face(0.4))
    assert meter.score(np.zeros(100_000, np.int16)) is not None
    assert meter.score(np.zeros(200, np.int16)) is None
