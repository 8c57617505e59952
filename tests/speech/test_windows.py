from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from stages.errors import UsageError
from stages.speech.windows import exact_rate, frame_windows, neighbours, stored_neighbours, windows_at

RATES = [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(30), Fraction(60), Fraction(15)]


def rows(count: int, features: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, features)).astype(np.float32)


def test_25_fps_equals_ad_nerf_windows_exactly():
    x = rows(100)
    # AD-NeRF: 8 rows of zeros on both sides, windows of 16 rows, stride 2
    padded = np.pad(x, ((8, 8), (0, 0)))
    expected = np.stack([padded[2 * i : 2 * i + 16] for i in range(50)])
    for fps in (Fraction(25), 25.0, 25):
        assert np.array_equal(frame_windows(x, 50, fps), expected)


def test_window_of_frame_i_holds_rows_2i_minus_8_to_2i_plus_7():
    x = np.arange(1, 101, dtype=np.float32)[:, None]
    window = frame_windows(x, 50, Fraction(25))[20, :, 0]
    assert window.tolist() == list(range(33, 49))  # rows 32 .. 47, counted from 1 here


@pytest.mark.parametrize("fps", RATES)
def test_a_ramp_is_read_at_the_time_of_the_frame(fps):
    # row r holds its own time, so that column j of frame i must hold i / fps + (j - 8) / 50
    x = (np.arange(2000) / 50).astype(np.float32)[:, None]
    frames = np.arange(20, 500)
    got = windows_at(x, frames, fps)[:, :, 0]
    expected = frames[:, None] / float(fps) + (np.arange(16) - 8) / 50
    np.testing.assert_allclose(got, expected, atol=4e-6)


def test_no_drift_after_ten_hours_of_ntsc():
    frame = 30000 * 36  # exactly 36036 s
    x = np.zeros((50 * 36036 + 9, 1), np.float32)
    x[50 * 36036] = 1
    window = windows_at(x, np.array([frame]), Fraction(30000, 1001))[0, :, 0]
    assert window.tolist() == [0] * 8 + [1] + [0] * 7


def test_outside_the_sound_is_zero_not_repeated():
    x = np.ones((10, 2), np.float32)
    out = frame_windows(x, 12, 25)
    assert out[0, :8].max() == 0 and out[0, 8:].min() == 1
    assert out[4, 10:].max() == 0 and out[4, :10].min() == 1
    assert out[9].max() == 0


def test_start_gives_the_same_windows_as_a_whole_run():
    x = rows(300)
    fps = Fraction(30000, 1001)
    whole = frame_windows(x, 150, fps)
    parts = np.concatenate([frame_windows(x, 50, fps, start=s) for s in (0, 50, 100)])
    assert np.array_equal(whole, parts)


def test_no_rows_and_no_frames_keep_their_shapes():
    assert frame_windows(np.zeros((0, 4), np.float32), 3, 25).shape == (3, 16, 4)
    assert frame_windows(rows(20), 0, 25).shape == (0, 16, 3)


def test_neighbours_at_25_fps_are_the_release_own():
    found = neighbours(10, 25)
    assert found.dtype == np.int32
    assert found[5].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found[0].tolist() == [-1, -1, -1, -1, 0, 1, 2, 3]
    assert found[9].tolist() == [5, 6, 7, 8, 9, -1, -1, -1]


def test_neighbours_keep_40_ms_steps_at_any_rate():
    assert neighbours(100, 50)[50].tolist() == [42, 44, 46, 48, 50, 52, 54, 56]
    assert neighbours(100, 60)[50].tolist() == [40, 43, 45, 48, 50, 52, 55, 57]
    for fps in RATES:
        k = 500
        seconds = (neighbours(1000, fps)[k] - k) / float(fps)
        assert np.abs(seconds - np.arange(-4, 4) * 0.04).max() <= 0.5 / float(fps) + 1e-9
        assert neighbours(1000, fps)[k, 4] == k


def test_stored_neighbours_point_into_the_stored_list():
    frames = np.array([2, 3, 4, 7, 8])
    found = stored_neighbours(frames, 10, 25)
    assert found.shape == (5, 8)
    assert found[2].tolist() == [-1, -1, 0, 1, 2, -1, -1, 3]  # frames 0 .. 7 around frame 4
    assert found[4].tolist() == [2, -1, -1, 3, 4, -1, -1, -1]  # frames 4 .. 11 around frame 8


def test_stored_neighbours_of_a_whole_clip_are_neighbours():
    assert np.array_equal(stored_neighbours(np.arange(40), 40, 30), neighbours(40, 30))


def test_a_decimal_rate_means_the_standard_fraction():
    assert exact_rate(30000 / 1001) == Fraction(30000, 1001)
    assert exact_rate(29.97) == Fraction(2997, 100)


@pytest.mark.parametrize("fps", [0, -25.0, float("nan"), float("inf"), Fraction(0)])
def test_impossible_rates_are_refused(fps):
    with pytest.raises(UsageError, match="frames a second"):
        frame_windows(rows(10), 5, fps)
