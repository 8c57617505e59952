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


@pytest.mark.parametrize("length", [41, 130])
def test_frames_are_those_of_the_order_at_every_rate(clip, tmp_path, monkeypatch, length):
    monkeypatch.setattr("stages.media.feed.CHUNK_BYTES", 64 * 48 * 3 * 9)  # nine frames at a time
    feed = open_feed(clip)
    assert isinstance(feed, VideoFeed)
    assert sum(1 for _ in feed.once()) == 40
    frames = list(feed.frames(40, length, tmp_path))
    numbers = [(int(f[0, 0, 0]) - 5) / 6 for f in frames]
    assert numbers == pingpong(40, length).tolist()
    assert not list(tmp_path.glob(".difftalk-*"))


def test_photo_is_repeated(tmp_path):
    from PIL import Image

    Image.fromarray(numbered(3)).save(tmp_path / "photo.png")
    feed = open_feed(tmp_path / "photo.png")
    frames = list(feed.frames(1, 5, tmp_path))
    assert len(frames) == 5 and all((f == numbered(3)).all() for f in frames)
