"""Condition encoders E_A and E_L (paper 3.2): the audio window with its temporal filter, and the landmarks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stages.shapes import AUDIO_NEIGHBOURS, CONDITION_POINTS, WINDOW_ROWS

ContextKind = Literal["tokens", "single"]
AUDIO_WIDTH = LANDMARK_WIDTH = 64
"""D_A = D_L (paper 4.1)."""
CURRENT = AUDIO_NEIGHBOURS // 2
"""The frame itself among its neighbours k-4 .. k+3."""


class AudioNet(nn.Module):
    """One window of acoustic features to one vector (AD-NeRF): (B, 16, F) -> (B, 64). 32,800 parameters at F = 29."""

    def __init__(self, features: int):
        super().__init__()
        widths = (features, 32, 32, 64, 64)
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv1d(a, b, 3, stride=2, padding=1), nn.LeakyReLU(0.02)]
        self.convs = nn.Sequential(*layers)  # 16 rows -> 8 -> 4 -> 2 -> 1
        self.head = nn.Sequential(nn.Linear(64, 64), nn.LeakyReLU(0.02), nn.Linear(64, AUDIO_WIDTH))

    def forward(self, audio: Tensor) -> Tensor:
        x = self.convs(audio.transpose(1, 2))  # (B, 64, 1)
        return self.head(x.squeeze(-1))  # (B, 64)


class AudioFilter(nn.Module):
    """Temporal filter: attention over the vectors of 8 neighbouring frames (B, 8, 64) -> (B, 64). 2,149 parameters.

    The attention looks at the first 32 of the 64 channels, as in the release.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 16, 8, 4, 2, 1)
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Conv1d(a, b, 3, padding=1), nn.LeakyReLU(0.02)]
        self.convs = nn.Sequential(*layers)
        self.score = nn.Linear(AUDIO_NEIGHBOURS, AUDIO_NEIGHBOURS)

    def forward(self, neighbours: Tensor) -> Tensor:
        x = self.convs(neighbours[..., :32].transpose(1, 2))  # (B, 1, 8)
        weights = self.score(x.squeeze(1)).softmax(dim=-1)  # (B, 8)
        return (weights[..., None] * neighbours).sum(dim=1)  # (B, 64)


class LipNet(nn.Module):
    """Windows of a frame and its neighbours (B, 8, 16, F) -> how the lips differ from the person's usual ones (B, L), in
    deviations. A small regression of its own: a network that only sees pictures' errors takes long to find what little of a
    picture the sound decides."""

    def __init__(self, features: int, lips: int, width: int = 48):
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv1d(features, width, 3, stride=2, padding=1), nn.GELU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1), nn.GELU(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(AUDIO_NEIGHBOURS * width, width), nn.GELU(), nn.Linear(width, lips))

    def forward(self, audio: Tensor) -> Tensor:
        b, n = audio.shape[:2]
        x = self.convs(audio.flatten(0, 1).transpose(1, 2)).mean(-1)  # (B 8, width)
        return self.head(x.view(b, -1))


class LandmarkNet(nn.Module):
    """39 points without mouth and chin (B, 39, 2) -> (B, 64). 22,528 parameters."""

    def __init__(self) -> None:
        super().__init__()
        points = 2 * len(CONDITION_POINTS)
        self.layers = nn.Sequential(
            nn.Linear(points, 128), nn.LeakyReLU(0.02), nn.Linear(128, 64), nn.LeakyReLU(0.02), nn.Linear(64, LANDMARK_WIDTH)
        )

    def forward(self, landmarks: Tensor) -> Tensor:
        return self.layers(landmarks.flatten(1))


class ConditionEncoder(nn.Module):
    """C_l: audio (B, 8, 16, F) and landmarks (B, 39, 2) in -1..1 of the crop -> context (B, N, D).

    `single` is the paper's one token [a; l], D = 128. One token makes cross-attention a constant, so `tokens` adds the
    rows of the frame's own window: the mouth can look at the moment that it needs (DESIGN, flaw 1). With `lips`, the shape
    that the lips are to take is a token too, the third.
    """

    def __init__(self, features: int, context: ContextKind = "tokens", width: int = 128, audio_filter: bool = True, lips: int = 0):
        super().__init__()
        self.context = context
        self.audio = AudioNet(features)
        self.filter = AudioFilter() if audio_filter else None
        self.landmarks = LandmarkNet()
        if context == "tokens":
            self.rows = nn.Sequential(
                nn.Conv1d(features, width, 3, padding=1), nn.GELU(), nn.Conv1d(width, width, 3, stride=2, padding=1)
            )
            self.position = nn.Parameter(torch.randn(WINDOW_ROWS // 2, width) * 0.02)
            self.smooth_token = nn.Linear(AUDIO_WIDTH, width)
            self.landmark_token = nn.Linear(LANDMARK_WIDTH, width)
            self.norm = nn.LayerNorm(width)
            self.lip_token = nn.Sequential(nn.Linear(lips, width), nn.GELU(), nn.Linear(width, width)) if lips else None

    def forward(self, audio: Tensor, landmarks: Tensor, lips: Tensor | None = None) -> Tensor:
        a = self.smooth_audio(audio)  # (B, 64)
        l = self.landmarks(landmarks)  # (B, 64)  # noqa: E741 - the paper's symbol
        if self.context == "single":
            return torch.cat([a, l], dim=-1)[:, None]  # (B, 1, 128)
        rows = self.rows(audio[:, CURRENT].transpose(1, 2)).transpose(1, 2) + self.position  # (B, 8, D)
        tokens = [self.smooth_token(a)[:, None], self.landmark_token(l)[:, None]]
        tokens += [self.lip_token(lips)[:, None]] if self.lip_token is not None else []
        return self.norm(torch.cat([*tokens, rows], dim=1))  # (B, 10 or 11, D)

    def smooth_audio(self, audio: Tensor) -> Tensor:
        """a: (B, 8, 16, F) -> (B, 64)."""
        if self.filter is None:
            return self.audio(audio[:, CURRENT])
        b, n = audio.shape[:2]
        return self.filter(self.audio(audio.flatten(0, 1)).view(b, n, -1))
