"""Means and their intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stages.metrics.statistics import summary


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        result = summary(random.normal(5, 2, 30))
        assert result["ci95"][0] < result["mean"] < result["ci95"][1]
        hits += result["ci95"][0] <= 5 <= result["ci95"][1]
    assert 51 <= hits <= 60  # 95 % nominal; the percentile bootstrap is a little narrow at 30 clips


def test_the_same_clips_give_the_same_interval() -> None:
    values = [1.0, 4.0, 2.0, 8.0]
    assert summary(values) == summary(values)
    assert summary(values)["mean"] == pytest.approx(3.75) and summary(values)["n"] == 4


def test_one_clip_has_a_mean_and_no_interval_and_all_of_it_is_json() -> None:
    assert summary([3.0]) == {"mean": 3.0, "ci95": None, "n": 1}
    assert json.loads(json.dumps(summary([1, 2, 3]), allow_nan=False))["mean"] == 2
    assert summary([2.0, 2.0])["ci95"] == [2.0, 2.0]
