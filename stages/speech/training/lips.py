"""How the lips move, learned from what the teacher hears: targets for every voice of the corpus, seen or not.

Minutes of film teach a large network its own clips and little else. A small one reads the lips from the teacher's features,
which know hundreds of voices, and what it says of people that it was not fitted on is what the acoustic model learns: of
clips, by networks fitted on other people; of all other recordings, by the mean of these networks. Film and sound are often
some frames apart; how far is found on the way, by the same networks, and taken into account.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.training.order import generator

FOLDS, ROUNDS, STEPS, BATCH, LENGTH = 5, 3, 300, 16, 100
"""Networks; how often offsets are found anew; optimiser steps, pieces in a step, rows in a piece."""
WIDTH, DROPOUT, NOISE = 96, 0.3, 0.4
RATE, DECAY = 1e-3, 0.3
LATEST = 10
"""Rows (0.2 s) that sound and film are apart at most."""
GAIN = 0.03
"""Correlation that an offset must be better by than none, or it is chance."""
OPEN = [0, 5]
"""Measures of LIPS by which offsets are found: inner opening and lower lip."""


@dataclass
class Heard:
    """One utterance: what the teacher hears in it, and the lips where they were seen."""

    features: np.ndarray
    """(R, C) f16 or f32."""
    lips: np.ndarray
    """(R, L) f32, nan where unknown."""
    person: str
    film: str


class LipReader(nn.Module):
    """Teacher's features (B, C, R) -> lips (B, L, R), from +-0.16 s around each row."""

    def __init__(self, features: int, lips: int):
        super().__init__()
        self.first = nn.Conv1d(features, WIDTH, 1)
        self.layers = nn.ModuleList([nn.Conv1d(WIDTH, WIDTH, 5, padding=2 * d, dilation=d) for d in (1, 2, 1)])
        self.last = nn.Conv1d(WIDTH, lips, 1)
        self.drop = nn.Dropout(DROPOUT)
        self.register_buffer("mean", torch.zeros(features, 1))
        self.register_buffer("deviation", torch.ones(features, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.deviation
        if self.training:  # other voices, other rooms
            x = x * (1 + 0.1 * torch.randn_like(x[..., :1])) + NOISE * torch.randn_like(x)
        h = self.first(self.drop(x))
        for layer in self.layers:
            h = h + self.drop(F.gelu(layer(h)))
        return self.last(h)


def hear_lips(utterances: list[Heard], seed: int, log: Callable[[str], None]) -> list[np.ndarray]:
    """The lips (R, L) f32 of every utterance, in the sound's own time, said by networks that did not see them."""
    seen = [k for k, u in enumerate(utterances) if _seen(u).any()]
    people = sorted({utterances[k].person for k in seen})
    if len(people) < 2:
        raise ValueError("lips are learned from at least two people")
    folds = min(FOLDS, len(people))
    turn = generator(seed, 7).permutation(len(people)) % folds
    fold = dict(zip(people, turn.tolist(), strict=True))
    offsets = dict.fromkeys(seen, 0)
    readers: list[LipReader] = []
    for round in range(ROUNDS):
        readers = []
        for f in range(folds):
            known = [k for k in seen if fold[utterances[k].person] != f]
            readers.append(_fit([utterances[k] for k in known], [offsets[k] for k in known], seed + f))
        said = {k: _read(readers[fold[utterances[k].person]], utterances[k]) for k in seen}
        offsets = _offsets({k: (utterances[k], said[k]) for k in seen})
        found = [_agreement(said[k], utterances[k].lips, offsets[k])[OPEN[0]] for k in seen]
        log(f"lips, round {round + 1} of {ROUNDS}: correlation {np.nanmean(found):.2f} with the opening of people not fitted on")
    return [said[k] if k in said else np.mean([_read(r, u) for r in readers], 0) for k, u in enumerate(utterances)]


def _seen(u: Heard) -> np.ndarray:
    return np.isfinite(u.lips[:, 0])


def _fit(utterances: list[Heard], offsets: list[int], seed: int) -> LipReader:
    torch.manual_seed(seed)
    rng = generator(seed, 8)
    rows = np.concatenate([u.features[::4].astype(np.float32) for u in utterances])
    reader = LipReader(rows.shape[1], utterances[0].lips.shape[1])
    reader.mean[:, 0] = torch.from_numpy(rows.mean(0))
    reader.deviation[:, 0] = torch.from_numpy(rows.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=RATE, weight_decay=DECAY)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    share = np.array([_seen(u).sum() for u in utterances]) ** 0.6  # long films do not decide alone
    for _ in range(STEPS):
        drawn = [_piece(utterances[k], offsets[k], rng) for k in rng.choice(len(utterances), BATCH, p=share / share.sum())]
        x, y = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))  # (B, C, R), (B, L, R)
        known = torch.isfinite(y)
        loss = ((reader(x) - torch.nan_to_num(y)) ** 2)[known].mean() if known.any() else reader.last.bias.sum() * 0
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return reader.eval()


def _piece(u: Heard, offset: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """LENGTH rows from anywhere: features (C, R), and the lips (L, R) that belong to them; nan past the ends."""
    start = int(rng.integers(max(1, len(u.features) - LENGTH + 1)))
    rows = start + np.arange(LENGTH)
    x = u.features[np.minimum(rows, len(u.features) - 1)].astype(np.float32)
    at = rows - offset
    y = np.where(((at >= 0) & (at < len(u.lips)))[:, None], u.lips[np.clip(at, 0, len(u.lips) - 1)], np.nan)
    return x.T, y.T.astype(np.float32)


@torch.no_grad()
def _read(reader: LipReader, u: Heard) -> np.ndarray:
    return reader(torch.from_numpy(u.features.astype(np.float32).T[None]))[0].T.numpy()


def _offsets(said: dict[int, tuple[Heard, np.ndarray]]) -> dict[int, int]:
    """Rows by which the sound comes after the picture, one number for all utterances of a film."""
    curves: dict[str, np.ndarray] = {}
    for u, heard in said.values():
        curve = np.array([_agreement(heard, u.lips, k)[OPEN].mean() for k in range(-LATEST, LATEST + 1)])
        if np.isfinite(curve).all():
            curves[u.film] = curves.get(u.film, 0) + np.append(curve, 1) * len(heard)
    best = {}
    for film, curve in curves.items():
        curve = curve[:-1] / curve[-1]
        k = int(curve.argmax())
        best[film] = k - LATEST if curve[k] > curve[LATEST] + GAIN else 0
    return {k: best.get(u.film, 0) for k, (u, _) in said.items()}


def _agreement(heard: np.ndarray, lips: np.ndarray, offset: int) -> np.ndarray:
    """Correlation (L,) of what is heard with the lips seen `offset` rows earlier; nan where too little is seen."""
    a, b = (heard[offset:], lips[: len(lips) - offset]) if offset >= 0 else (heard[:offset], lips[-offset:])
    known = np.isfinite(b[:, 0])
    if known.sum() < 25:
        return np.full(heard.shape[1], np.nan)
    a, b = a[known] - a[known].mean(0), b[known] - b[known].mean(0)
    return (a * b).sum(0) / (np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0) + 1e-9)
