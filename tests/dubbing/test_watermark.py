"""The mark: strong in what is marked, absent elsewhere, steady over time, and within its mask."""

import numpy as np
import pytest

from stages.dubbing.watermark import THRESHOLD, Marker, measure, score
from stages.faces.mask import feathered


def faces(count=40, side=256, seed=0):
    """Smooth pictures that change a little from frame to frame."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.uniform(60, 190, (8, 8, 3)).astype(np.float32)
    frames = []
    for _ in range(count):
        coarse += rng.normal(0, 1.0, coarse.shape).astype(np.float32)
        frames.append(np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8))
    return np.stack(frames)


def look(frames, kind="lower-face", fps=25, first=0):
    return score(np.stack([measure(f, kind) for f in frames]), (first + np.arange(len(frames))) / fps)


def add(frame, change):
    return np.clip(np.rint(frame + change[..., None]), 0, 255).astype(np.uint8)


def mark(marker, frames, scale, fps=25):
    return np.stack([add(f, marker(f, scale, k / fps)) for k, f in enumerate(frames)])


@pytest.mark.parametrize("scale, most", [(0.5, 1.9), (1.3, 2.8), (2.0, 4.1)])
@pytest.mark.parametrize("kind, side", [("lower-face", 256), ("mouth", 256), ("paper", 256), ("lower-face", 512)])
def test_the_mark_is_strong_invisible_and_inside_its_mask(scale, most, kind, side):
    frames = faces(side=side)
    marked = mark(Marker(kind, side), frames, scale)
    seen = "mouth" if kind == "mouth" else "lower-face"
    assert look(marked, seen) > 7
    assert look(frames, seen) < THRESHOLD
    change = marked.astype(int) - frames
    assert np.abs(change).max() <= 7 * most and np.sqrt(np.square(change[:, feathered(side, seen) > 0.5]).mean()) < most
    assert np.abs(change[:, feathered(side, seen) == 0]).max() == 0


def test_pictures_without_the_mark_score_like_chance():
    scores = [look(faces(6, seed=s)) for s in range(60)]
    assert max(scores) < THRESHOLD and 1.2 < np.mean(scores) < 2.6 and np.std(scores) < 1


@pytest.mark.parametrize("fps", [10, 29.97, 60])
def test_a_film_is_marked_wherever_it_is_cut_and_at_any_rate(fps):
    marked = mark(Marker("lower-face", 256), faces(round(3 * fps)), 1.0, fps)
    assert look(marked, fps=fps) > 7 and look(marked[round(0.3 * fps) : round(2.7 * fps)], fps=fps) > 7
    assert look(marked, fps=fps / 3) < THRESHOLD  # other times: other lattices


def test_a_person_who_keeps_still_is_no_mark_and_can_carry_one():
    frames = np.repeat(faces(1), 75, axis=0)
    assert look(frames) < THRESHOLD - 1 and look(mark(Marker("lower-face", 256), frames, 0.5)) > 8
    assert look(mark(Marker("lower-face", 256), frames[:1], 0.5)) > 3  # a single picture says less


def test_the_mark_does_not_flicker_and_needs_no_frame_before():
    frames = faces(60)
    marked = mark(Marker("lower-face", 256), frames, 1.0)
    steps = np.abs(np.diff((marked.astype(float) - frames).mean(-1), axis=0))
    assert steps.mean() < 1.0
    np.testing.assert_array_equal(add(frames[41], Marker("lower-face", 256)(frames[41], 1.0, 41 / 25)), marked[41])


def test_a_face_about_a_border_of_size_keeps_its_lattice_and_one_that_grows_past_it_does_not():
    frames = faces(60)
    one, two = Marker("lower-face", 256), Marker("lower-face", 256)
    steady = mark(one, frames, 0.79)
    wobbling = np.stack([add(f, two(f, s, k / 25)) for k, (f, s) in enumerate(zip(frames, np.tile([0.79, 0.83], 30), strict=True))])
    np.testing.assert_array_equal(steady, wobbling)
    grown = Marker("lower-face", 256)
    levels = [grown._level(s) for s in (0.5, 0.85, 0.95, 0.75, 0.65, 2.0, 1.3, 1.2)]
    assert levels == [0, 0, 1, 1, 0, 2, 2, 1]
