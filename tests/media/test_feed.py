"""The forth-and-back feed gives exactly the frames that it says."""

from fractions import Fraction

import numpy as np
import pytest

from stages.media.feed import VideoFeed, open_feed, pingpong
from stages.media.video import VideoWriter


def numbered(number: int) -> np.ndarray:
    """A frame whose brightness tells its number."""
    return np.full((48, 64, 3), 5 + 6 * number, np.uint8)


@pytest.fixture(params=["24000/1001", "25", "60"])
def clip(request, tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, fps=Fraction(request.param), size=(64, 48), lossless=True) as out:
        for i in range(40):
            out.write(numbered(i))
    return path


def test_order_goes_forth_and_back_without_repeating_the_ends():
    assert pingpong(4, 10).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]
    assert pingpong(1, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("start, length", [(0, 20), (0, 41), (0, 130), (7, 60), (50, 40), (45, 1)])
def test_frames_are_those_of_the_order_at_every_rate_from_anywhere(clip, tmp_path, monkeypatch, start, length):
    monkeypatch.setattr("stages.media.feed.CHUNK_BYTES", 64 * 48 * 3 * 9)  # nine frames at a time
    feed = open_feed(clip)
    assert isinstance(feed, VideoFeed)
    assert sum(1 for _ in feed.once()) == 40
    order = pingpong(40, start + length)[start:]
    numbers = [(int(f[0, 0, 0]) - 5) / 6 for f in feed.play(order, tmp_path)]
    assert numbers == order.tolist()
    assert not list(tmp_path.glob(".difftalk-*"))


def test_a_part_of_a_video_counts_from_its_start(clip, tmp_path):
    fps = open_feed(clip).fps
    feed = open_feed(clip, start_seconds=float(10 / fps), seconds=float(8 / fps))
    assert sum(1 for _ in feed.once()) == 8
    order = pingpong(8, 20)
    assert [(int(f[0, 0, 0]) - 5) / 6 for f in feed.play(order, tmp_path)] == (order + 10).tolist()


def test_a_loop_that_is_left_early_leaves_nothing(clip, tmp_path):
    frames = open_feed(clip).play(pingpong(40, 100)[40:], tmp_path)
    next(frames)
    assert list(tmp_path.glob(".difftalk-*"))
    frames.close()
    assert not list(tmp_path.glob(".difftalk-*"))


def test_photo_and_arrays_are_repeated(tmp_path):
    from PIL import Image

    from stages.media.feed import ArrayFeed

    Image.fromarray(numbered(3)).save(tmp_path / "photo.png")
    frames = list(open_feed(tmp_path / "photo.png").play(pingpong(1, 5), tmp_path))
    assert len(frames) == 5 and all((f == numbered(3)).all() for f in frames)
    feed = ArrayFeed(np.stack([numbered(i) for i in range(3)]), Fraction(25))
    assert feed.size == (64, 48) and len(list(feed.once())) == 3
    assert [int(f[0, 0, 0]) for f in feed.play(pingpong(3, 4), tmp_path)] == [5, 11, 17, 11]
