"""What moves between frames: heat, jitter and flicker, each seeing its own part of the crop."""

from __future__ import annotations

import numpy as np
import pytest

from stages.metrics.motion import Motion, jitter

SIDE = 64


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 190, (count, SIDE, SIDE, 3), dtype=np.uint8)


def run(generated: np.ndarray, truth: np.ndarray, joined: list[bool] | None = None) -> tuple[Motion, dict[str, np.ndarray]]:
    motion, rows = Motion(SIDE), []
    for i, (a, b) in enumerate(zip(generated, truth, strict=True)):
        rows.append(motion.add(a, b, True if joined is None else joined[i]))
    return motion, {name: np.array([row.get(name, np.nan) for row in rows]) for name in ("heat", "heat_true", "flicker")}


def test_the_truth_has_jitter_1_a_frozen_mouth_0_and_a_nervous_one_more() -> None:
    truth = crops(6)
    inside = Motion(SIDE).inside
    frozen, nervous = truth.copy(), truth.astype(float)
    frozen[:, inside] = truth[0][inside]
    nervous[:, inside] = 127 + 1.9 * (nervous[:, inside] - 127)
    for generated, wanted in ((truth, 1.0), (frozen, 0.0), (np.clip(nervous, 0, 255).astype(np.uint8), 1.9)):
        _, found = run(generated, truth)
        assert np.isnan(found["heat"][0]) and jitter(found["heat"], found["heat_true"]) == pytest.approx(wanted, abs=0.02)
        assert np.nanmax(found["flicker"]) == 0  # outside the mask all is as it was


def test_flicker_is_what_changes_outside_the_mask_alone() -> None:
    truth = np.repeat(crops(1), 5, axis=0)
    generated, outside = truth.copy(), Motion(SIDE).outside
    generated[1::2, outside] += 10
    _, found = run(generated, truth)
    np.testing.assert_allclose(found["flicker"][1:], 10)
    assert np.nanmax(found["heat"]) == 0 and np.isnan(jitter(found["heat"], found["heat_true"]))  # the truth is still


def test_nothing_is_compared_across_a_cut() -> None:
    truth = crops(4)
    motion, found = run(truth, truth, [False, True, False, True])
    assert np.isnan(found["heat"][[0, 2]]).all() and np.isfinite(found["heat"][[1, 3]]).all()
    assert motion.count == 2


def test_maps_are_the_mean_difference_of_adjacent_frames() -> None:
    generated, truth = crops(5, 1), crops(5, 2)
    maps = run(generated, truth)[0].maps()
    wanted = [np.abs(np.diff(x.astype(float), axis=0)).mean((0, 3)) for x in (generated, truth)]
    assert maps.shape == (2, SIDE, SIDE) and maps.dtype == np.float32
    np.testing.assert_allclose(maps, wanted, rtol=1e-5)
