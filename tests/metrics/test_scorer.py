"""Which frames are scored, and with what."""

from __future__ import annotations

import numpy as np
import pytest

from stages.metrics.scorer import CROP, FRAME, Scorer, chosen


@pytest.mark.parametrize("every", [1, 2, 3, 5, 25])
def test_one_frame_of_each_group_is_looked_at_and_none_of_its_places_is_preferred(every: int) -> None:
    looked = np.array([chosen(i, every) for i in range(every * 600)]).reshape(-1, every)
    assert (looked.sum(1) == 1).all() and looked[0, 0]
    share = looked.mean(0) * every
    assert share.min() > 0.9 and share.max() < 1.1
    # nor any place of the groups that encoders make (every second, third or fourth frame is coded better than its neighbours)
    for period in (2, 3, 4, 8):
        phases = np.bincount(np.flatnonzero(looked.reshape(-1)) % period, minlength=period)
        assert phases.min() > 0.85 * phases.mean(), (every, period, phases)


def test_whole_frames_are_scored_now_and_then_and_crops_always() -> None:
    rng = np.random.default_rng(0)
    scorer = Scorer(("psnr",), {}, {FRAME: 5})
    for _ in range(20):
        a, b = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
        scorer.add({CROP: (a, b), FRAME: (a, b)})
    table = scorer.table()
    column = dict(zip(scorer.names, table.T, strict=True))
    assert np.isfinite(column["psnr"]).all()
    assert np.isfinite(column["frame_psnr"]).sum() == 4
