"""The acoustic model in torch: DeepSpeech 0.1.0's network, smaller, with the heads that only training needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.speech.graph import LETTERS
from stages.speech.mfcc import CEPSTRA, CONTEXT, INPUT_WIDTH
from stages.speech.network import CLIP

REACH = 8
"""Rows on each side that the logits' heads see: +-160 ms, as a window does."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Widths: 494 -> dense, dense, dense -> LSTM in both directions -> hidden -> 29."""

    dense: int = 448
    lstm: int = 320
    hidden: int = 128


class AcousticModel(nn.Module):
    """(B, T, 26) f32 whitened MFCC rows -> logits (B, T, 29) and hidden activations (B, T, hidden)."""

    def __init__(self, sizes: Sizes, targets: int, lips: int, dropout: float = 0.1):
        super().__init__()
        self.h1 = nn.Linear(INPUT_WIDTH, sizes.dense)
        self.h2 = nn.Linear(sizes.dense, sizes.dense)
        self.h3 = nn.Linear(sizes.dense, sizes.dense)
        self.lstm = nn.LSTM(sizes.dense, sizes.lstm, batch_first=True, bidirectional=True)
        self.h5 = nn.Linear(2 * sizes.lstm, sizes.hidden)
        self.h6 = nn.Linear(sizes.hidden, LETTERS)
        self.drop = nn.Dropout(dropout)
        # Training only. What the teacher hears and how the mouth looks must be readable from the hidden layer at the same
        # row, and from the logits of a window.
        self.teacher_of_hidden = nn.Linear(sizes.hidden, targets)
        self.lips_of_hidden = nn.Linear(sizes.hidden, lips)
        self.teacher_of_logits = nn.Conv1d(LETTERS, targets, 2 * REACH + 1, padding=REACH)
        self.lips_of_logits = nn.Conv1d(LETTERS, lips, 2 * REACH + 1, padding=REACH)

    def forward(self, mfcc: Tensor) -> dict[str, Tensor]:
        x = torch.nn.functional.pad(mfcc, (0, 0, CONTEXT, CONTEXT))  # (B, T + 18, 26)
        x = x.unfold(1, 2 * CONTEXT + 1, 1).transpose(2, 3).flatten(2)  # (B, T, 19 * 26), oldest row first
        assert x.shape[-1] == (2 * CONTEXT + 1) * CEPSTRA == INPUT_WIDTH
        for layer in (self.h1, self.h2, self.h3):
            x = self.drop(layer(x).clamp(0, CLIP))  # (B, T, dense)
        x, _ = self.lstm(x)  # (B, T, 2 * lstm)
        hidden = self.h5(x).clamp(0, CLIP)  # (B, T, hidden)
        logits = self.h6(hidden)  # (B, T, 29)
        window = logits.transpose(1, 2)
        return {
            "logits": logits,
            "hidden": hidden,
            "teacher_of_hidden": self.teacher_of_hidden(hidden),
            "lips_of_hidden": self.lips_of_hidden(hidden),
            "teacher_of_logits": self.teacher_of_logits(window).transpose(1, 2),
            "lips_of_logits": self.lips_of_logits(window).transpose(1, 2),
        }
