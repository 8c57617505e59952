"""Means with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95


def summary(values: Sequence[float]) -> dict[str, Any]:
    """{"mean", "ci95", "n"} of one figure a clip; the interval is null for a single clip, which cannot tell it.

    Percentile bootstrap over clips (Efron 1979): 2000 resamples, fixed seed, so the same values give the same interval.
    """
    assert len(values) and np.isfinite(values).all(), values
    data = np.asarray(values, np.float64)
    if len(data) == 1:
        return {"mean": float(data[0]), "ci95": None, "n": 1}
    random = np.random.default_rng(SEED)
    means = [data[random.integers(0, len(data), len(data))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": float(data.mean()), "ci95": [float(low), float(high)], "n": len(data)}
