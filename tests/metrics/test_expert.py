"""difftalk-sync: what goes in and comes out, its weights, and that it finds shifts on real clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.artifacts import file_digest
from stages.errors import WeightsError
from stages.metrics.expert import BUNDLED, EMBEDDING, SyncExpert, embed, load_expert, standardise
from stages.metrics.sync import sync_score


def test_both_sides_give_as_many_moments_of_unit_length() -> None:
    rows, shapes = np.random.default_rng(0).normal(size=(151, 80)).astype(np.float32), np.random.default_rng(1).normal(size=(90, 4))
    shapes[10:14] = np.nan
    lips, sound = embed(SyncExpert().eval(), rows, shapes)
    assert lips.shape == sound.shape == (75, EMBEDDING)
    np.testing.assert_allclose(np.linalg.norm(np.stack([lips, sound]), axis=-1), 1, atol=1e-5)


def test_a_still_mouth_is_not_blown_up_and_gaps_are_bridged() -> None:
    still = np.full((50, 4), 0.2, np.float32) + np.random.default_rng(0).normal(0, 1e-4, (50, 4))
    still[20:25] = np.nan
    found = standardise(still)
    assert np.isfinite(found).all() and np.abs(found).max() < 0.1


def test_the_weights_that_ship_are_those_of_the_card() -> None:
    card = (BUNDLED.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert file_digest(BUNDLED) in card
    expert = load_expert()
    assert f"{sum(p.numel() for p in expert.parameters()):,}" in card


def test_weights_of_something_else_are_refused(tmp_path) -> None:
    save_file({"mean": torch.zeros(80, 1)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"no tensors")
    for name in ("other", "torn", "missing"):
        with pytest.raises(WeightsError, match="not difftalk-sync's weights"):
            load_expert(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("shift", [-6, 3])
def test_it_finds_the_shift_of_a_real_clips_sound(shift: int, shared_clips) -> None:
    """A clip that it was not trained on."""
    from stages.faces import FaceConfig, lip_shape, locate_face
    from stages.faces.detect import make_finder
    from stages.media.audio import read_audio
    from stages.media.video import VideoReader
    from stages.runtime import Reporter
    from stages.speech.mel import log_mel

    path = shared_clips / "samples/OpenTalker__video-retalking__2_old.mp4"
    track = locate_face((f for _, f in zip(range(100), VideoReader(path))), 25.0, FaceConfig(), Reporter(), make_finder("dlib"))
    shapes, rows = lip_shape(track.align, track.landmarks), log_mel(read_audio(path))
    found = []
    for late in (0, shift):
        at = np.clip(2 * late + np.arange(2 * len(shapes)), 0, len(rows) - 1)
        found.append(sync_score(*embed(load_expert(), rows[at], shapes)).offset)
    assert abs(found[1] - found[0] - shift) <= 1 and abs(found[0]) <= 2
