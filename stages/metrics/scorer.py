"""The pictures of one clip, frame by frame: PSNR, SSIM and LPIPS on face crop, mouth and whole frame, with bounded memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stages.metrics.lpips import Lpips

PICTURE_METRICS = ("psnr", "ssim", "lpips", "vgg")
CROP, MOUTH, FRAME = "", "mouth_", "frame_"
"""The three pictures of a frame, as the prefixes of their results: face crop, mouth crop, whole frame."""
PSNR_CAP = 100.0
"""dB that stand for more, infinity (equal frames) among it: JSON and means know no infinity."""
BATCH = 16
"""Crops that go through LPIPS together."""
PERFECT = {"psnr": PSNR_CAP, "ssim": 1.0, "lpips_alex": 0.0, "lpips_vgg": 0.0}
"""What equal pictures score, by the metrics' definitions."""


def picture_names(metrics: Sequence[str]) -> tuple[str, ...]:
    """Names of the results of `metrics`. LPIPS is taken of the crops only, for whole frames come in any size; VGG16 of the face alone."""
    plain = [name for name in metrics if name in ("psnr", "ssim")]
    alex = ["lpips_alex"] if "lpips" in metrics else []
    vgg = ["lpips_vgg"] if "vgg" in metrics else []
    return (*plain, *alex, *vgg, *(f"{MOUTH}{n}" for n in (*plain, *alex)), *(f"{FRAME}{n}" for n in plain))


def chosen(number: int, every: int) -> bool:
    """Whether this frame is the one of its `every` that is looked at.

    Its place moves from one group to the next, by the golden ratio: in a coded film every second frame is often the better one.
    """
    group, place = divmod(number, every)
    return place == int(every * (group * 0.6180339887498949 % 1))


class Scorer:
    """Feed frames in order with `add`; `table` gives the scores. At most BATCH crops of a kind are kept.

    `lpips` holds the networks that are wanted, by `lpips_alex` and `lpips_vgg`. What `every` names, one of these
    networks or FRAME, is looked at once in so many frames; all else at each.
    """

    def __init__(self, metrics: Sequence[str], lpips: Mapping[str, Lpips], every: Mapping[str, int] | None = None):
        wanted = {name for name, metric in (("lpips_alex", "lpips"), ("lpips_vgg", "vgg")) if metric in metrics}
        assert wanted == set(lpips), (metrics, set(lpips))
        self.metrics, self.lpips, self.names = tuple(metrics), lpips, picture_names(metrics)
        self.every = dict(every or {})
        self._rows: list[dict[str, float]] = []
        self._waiting: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}

    def add(self, pictures: Mapping[str, tuple[np.ndarray, np.ndarray]], row: dict[str, float] | None = None) -> None:
        """One frame: prefix -> (generated, true), each (H, W, 3) u8. A frame without a face has FRAME alone.

        The scores go into `row`, some of them later. The very same array on both sides is known to be perfect.
        """
        row = {} if row is None else row
        number = len(self._rows)
        self._rows.append(row)
        for prefix, (a, b) in pictures.items():
            if number % self.every.get(prefix, 1):
                continue
            if a is b:
                row |= {f"{prefix}{name}": value for name, value in PERFECT.items() if f"{prefix}{name}" in self.names}
                continue
            self._plain(prefix, a, b, row)
            for network in self.lpips:
                name = f"{prefix}{network}"
                if name in self.names and chosen(number, self.every.get(network, 1)):
                    queue = self._waiting.setdefault(name, [])
                    queue.append((number, a, b))
                    if len(queue) == BATCH:
                        self._flush(name)

    def _plain(self, prefix: str, a: np.ndarray, b: np.ndarray, row: dict[str, float]) -> None:
        from stages.metrics.quality import psnr, ssim  # OpenCV: the command line reads names without it

        if "psnr" in self.metrics:
            row[f"{prefix}psnr"] = min(psnr(a, b), PSNR_CAP)
        if "ssim" in self.metrics:
            row[f"{prefix}ssim"] = ssim(a, b)

    def table(self) -> np.ndarray:
        """All scores so far, (T, M) f64 with columns `names`; NaN where a frame has none."""
        self.finish()
        rows = [[row.get(name, np.nan) for name in self.names] for row in self._rows]
        return np.array(rows, np.float64).reshape(-1, len(self.names))

    def finish(self) -> None:
        """Have every row whole."""
        for name in list(self._waiting):
            self._flush(name)

    def _flush(self, name: str) -> None:
        numbers, a, b = zip(*self._waiting.pop(name), strict=True)
        network = self.lpips[name.removeprefix(MOUTH)]
        for number, distance in zip(numbers, network.frames(np.stack(a), np.stack(b)), strict=True):
            self._rows[number][name] = float(distance)
