"""Bringing two videos onto one clock."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from stages.metrics.pairs import Counts, describe, pair_frames, resize_to


def numbered(count: int) -> Iterator[np.ndarray]:
    return (np.full((2, 2, 3), i, np.uint8) for i in range(count))


def pairing(generated: int, truth: int, rates: tuple[int, int]) -> tuple[list[tuple[int, int]], Counts]:
    counts = Counts()
    pairs = pair_frames(numbered(generated), numbered(truth), (Fraction(rates[0]), Fraction(rates[1])), counts)
    return [(int(a[0, 0, 0]), int(b[0, 0, 0])) for a, b in pairs], counts


def test_equal_videos_pair_frame_by_frame() -> None:
    pairs, counts = pairing(5, 5, (25, 25))
    assert pairs == [(i, i) for i in range(5)]
    assert counts == Counts(5, 5, 5)


@pytest.mark.parametrize(("generated", "truth"), [(3, 7), (7, 3)])
def test_only_the_common_start_is_used_and_both_lengths_are_known(generated: int, truth: int) -> None:
    pairs, counts = pairing(generated, truth, (25, 25))
    assert pairs == [(i, i) for i in range(3)]
    assert counts == Counts(generated, truth, 3)


@pytest.mark.parametrize("rates", [(50, 25), (25, 50), (30, 25), (25, 30), (24, 60), (60, 24), (10, 60)])
def test_each_true_frame_meets_the_generated_frame_nearest_in_time(rates: tuple[int, int]) -> None:
    generated, truth = 2 * rates[0], 2 * rates[1]  # two seconds each
    pairs, counts = pairing(generated, truth, rates)
    assert [b for _, b in pairs] == list(range(truth))
    assert counts == Counts(generated, truth, truth)
    for a, b in pairs:
        moments = np.abs(np.arange(generated) / rates[0] - b / rates[1])
        assert moments[a] == pytest.approx(moments.min(), abs=1e-9)


def test_videos_are_streamed_not_held() -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield np.zeros((2, 2, 3), np.uint8)

    pairs = pair_frames(endless(), endless(), (Fraction(25), Fraction(25)), Counts())
    for _ in range(10):
        next(pairs)
    assert taken <= 22


def test_what_was_done_is_described_and_nothing_else() -> None:
    same = ((64, 48), (64, 48))
    assert describe(same, (Fraction(25), Fraction(25)), Counts(50, 50, 50)) == []
    # 2 s of 30 and of 25 frames a second are equally long
    assert len(describe(same, (Fraction(30), Fraction(25)), Counts(60, 50, 50))) == 1
    notes = " | ".join(describe(((128, 64), (64, 48)), (Fraction(30), Fraction(25)), Counts(30, 50, 25)))
    assert "128x64 resized to 64x48" in notes and "stretched" in notes
    assert "generated 30, truth 25" in notes and "generated 1.00 s, truth 2.00 s" in notes
    assert "length" in describe(same, (Fraction(25), Fraction(25)), Counts(51, 50, 50))[0]


def test_resizing_keeps_the_picture_and_leaves_equal_sizes_alone() -> None:
    rows, columns = np.indices((96, 128))
    large = np.stack([rows, columns, rows + columns], axis=2).astype(np.uint8)
    small = resize_to(large, np.zeros((48, 64, 3), np.uint8))
    assert small.shape == (48, 64, 3)
    np.testing.assert_allclose(small, large[::2, ::2], atol=2)
    back = resize_to(small, large)
    assert np.abs(back.astype(int) - large).mean() < 1
    assert resize_to(large, large) is large
