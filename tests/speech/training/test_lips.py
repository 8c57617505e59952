"""Lips from the teacher's features: of people that were not fitted on, in the sound's own time, and of voices nobody saw."""

from __future__ import annotations

import numpy as np
import pytest

from stages.speech.training import lips as module
from stages.speech.training.lips import Heard, hear_lips

ROWS, FEATURES = 250, 6


def speaking(seed: int, person: str, late: int = 0, seen: bool = True) -> tuple[Heard, np.ndarray]:
    """An utterance whose first feature is the opening of all lips; the film shows it `late` rows before the sound. And the truth."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, FEATURES))
    x[:, 0] = np.convolve(rng.normal(size=ROWS + 10), np.hanning(11), "valid") / 2
    truth = np.repeat(x[:, :1], 6, 1)
    shown = np.roll(truth, -late, axis=0) if seen else np.full_like(truth, np.nan)
    return Heard(x.astype(np.float16), shown.astype(np.float32), person, f"film of {person}"), truth


def agree(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a[12:-12, 0], b[12:-12, 0])[0, 1])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in {"WIDTH": 16, "STEPS": 120, "BATCH": 6, "RATE": 5e-3, "DROPOUT": 0.1}.items():
        monkeypatch.setattr(module, name, value)


def test_lips_are_told_by_those_who_did_not_see_them_and_offsets_are_undone():
    late = {"ann": 0, "bob": 6, "cleo": 0, "dan": -5, "eve": 0, "fay": 0}
    made = [speaking(k, person, by) for k, (person, by) in enumerate(late.items())]
    made.append(speaking(99, "a voice", seen=False))
    notes: list[str] = []
    found = hear_lips([u for u, _ in made], 0, notes.append)
    assert [f.shape for f in found] == [(ROWS, 6)] * 7 and all(np.isfinite(f).all() for f in found)
    assert min(agree(f, truth) for f, (_, truth) in zip(found, made, strict=True)) > 0.9
    assert len(notes) == module.ROUNDS and "people not fitted on" in notes[0]


def test_a_persons_own_lips_are_not_what_is_learned_of_them(monkeypatch):
    """Somebody whose film contradicts all others is told the others' way."""
    monkeypatch.setattr(module, "ROUNDS", 1)
    made = [speaking(k, person) for k, person in enumerate("abcdef")]
    made[2][0].lips[:] *= -1
    found = hear_lips([u for u, _ in made], 0, lambda note: None)
    assert agree(found[2], made[2][1]) > 0.5


def test_one_person_alone_teaches_nothing():
    with pytest.raises(ValueError, match="two people"):
        hear_lips([speaking(0, "ann")[0]], 0, lambda note: None)
