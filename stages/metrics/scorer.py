"""All picture metrics of one clip, frame by frame, with bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stages.metrics.lpips import Lpips

METRICS = ("psnr", "ssim", "lpips")
CROP, MOUTH, FRAME = "", "mouth_", "frame_"
"""The three pictures of a frame, as the prefixes of their results: face crop, mouth crop, whole frame."""
PSNR_CAP = 100.0
"""dB that stand for more, infinity (equal frames) among it: JSON and means know no infinity."""
BATCH = 16
"""Crops that go through LPIPS together."""


def result_names(metrics: Sequence[str]) -> tuple[str, ...]:
    """Names of the results of `metrics`. LPIPS is taken of the crops only: whole frames come in any size."""
    crop = ["lpips_alex" if name == "lpips" else name for name in metrics]
    return (*crop, *(f"{MOUTH}{name}" for name in crop), *(f"{FRAME}{name}" for name in metrics if name != "lpips"))


class Scorer:
    """Feed frames in order with `add`; `table` gives the scores. At most BATCH crops of a kind are kept."""

    def __init__(self, metrics: Sequence[str], lpips: Lpips | None):
        assert (lpips is not None) == ("lpips" in metrics), metrics
        self.metrics, self.lpips, self.names = tuple(metrics), lpips, result_names(metrics)
        self._rows: list[dict[str, float]] = []
        self._waiting: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}

    def add(self, pictures: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """One frame: prefix -> (generated, true), each (H, W, 3) u8. A frame without a face has FRAME alone."""
        from stages.metrics.quality import psnr, ssim  # OpenCV: the command line reads METRICS without it

        row: dict[str, float] = {}
        self._rows.append(row)
        for prefix, (a, b) in pictures.items():
            if "psnr" in self.metrics:
                row[f"{prefix}psnr"] = min(psnr(a, b), PSNR_CAP)
            if "ssim" in self.metrics:
                row[f"{prefix}ssim"] = ssim(a, b)
            if self.lpips and prefix != FRAME:
                queue = self._waiting.setdefault(f"{prefix}lpips_alex", [])
                queue.append((len(self._rows) - 1, a, b))
                if len(queue) == BATCH:
                    self._flush(f"{prefix}lpips_alex")

    def table(self) -> np.ndarray:
        """All scores so far, (T, M) f64 with columns `names`; NaN where a frame has none."""
        for name in list(self._waiting):
            self._flush(name)
        rows = [[row.get(name, np.nan) for name in self.names] for row in self._rows]
        return np.array(rows, np.float64).reshape(-1, len(self.names))

    def _flush(self, name: str) -> None:
        assert self.lpips is not None
        numbers, a, b = zip(*self._waiting.pop(name), strict=True)
        for number, distance in zip(numbers, self.lpips.frames(np.stack(a), np.stack(b)), strict=True):
            self._rows[number][name] = float(distance)
