"""Sound and picture share one clock: a click and the frame that it belongs to come back at the same time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from stages.media import VideoReader, VideoWriter, read_audio
from tests.media.made import CONTAINERS, click_times, clicks, coded, known, number, video

SOUNDING = [k for k in CONTAINERS if k != "gif"]


def moments(path: Path, wanted: list[int]) -> list[float]:
    """Seconds at which frames with these numbers are first shown."""
    reader = VideoReader(path, info=known(path))
    shown = [number(f) for f in reader]
    return [shown.index(n) / float(reader.info.fps) for n in wanted]


def lag(path: Path, frames: list[int]) -> float:
    """The largest distance between a click and the frame with which it was made, in seconds; signed."""
    heard = click_times(read_audio(path, info=known(path)))
    assert len(heard) == len(frames), (heard, frames)
    return max((h - s for h, s in zip(heard, moments(path, frames), strict=True)), key=abs)


@pytest.mark.parametrize("rate", ["24000/1001", "25", "30000/1001", "50", "60"])
def test_a_click_and_its_frame_are_together_at_every_rate(tmp_path: Path, rate: str) -> None:
    frames = [5, 20, 33]
    sound = clicks(tmp_path / "a.wav", float(40 / Fraction(rate)), [float(n / Fraction(rate)) for n in frames])
    for kind in ("mp4",) if rate != "30000/1001" else ("mp4", "mkv"):
        assert abs(lag(video(tmp_path / f"a.{kind}", 40, rate, audio=sound), frames)) < 0.002


@pytest.mark.parametrize("kind", SOUNDING)
def test_a_click_and_its_frame_are_together_in_every_container(tmp_path: Path, kind: str) -> None:
    path = video(tmp_path / f"a.{kind}", 40, audio=clicks(tmp_path / "a.wav", 1.6, [0.2, 0.8, 1.32]))
    assert abs(lag(path, [5, 20, 33])) < (0.042 if kind == "wmv" else 0.005)  # wmv: versions differ by its one frame of delay
    reader = VideoReader(path, info=known(path), start_seconds=moments(path, [20])[0], frames=1)
    heard = click_times(read_audio(path, info=known(path), start_seconds=reader.start_seconds - 0.1, seconds=0.3))
    assert [number(f) for f in reader] == [20] and heard == pytest.approx([0.1], abs=0.005)


@pytest.mark.parametrize(("kind", "late"), [("mp4", 0.02), *((kind, 0.5) for kind in ("mp4", "mov", "mkv", "webm", "ts", "mpg"))])
def test_sound_that_starts_late_is_padded(tmp_path: Path, kind: str, late: float) -> None:
    sound = clicks(tmp_path / "a.wav", 1.0, [0.2])
    path = video(tmp_path / f"a.{kind}", 40, audio=sound, audio_before=["-itsoffset", str(late)])
    assert lag(path, [5]) == pytest.approx(late, abs=0.005)


@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv", "webm", "ts", "mpg"])
def test_a_picture_that_starts_late_holds_its_first_frame(tmp_path: Path, kind: str) -> None:
    sound = clicks(tmp_path / "a.wav", 2.0, [0.2, 0.8])
    path = video(tmp_path / f"a.{kind}", 40, audio=sound, before=["-itsoffset", "0.48"])
    assert abs(lag(path, [5, 20]) + 0.48) < 0.042  # the container may have rounded to a frame
    assert [number(f) for f in VideoReader(path, info=known(path), frames=8)] == [0] * 8


def test_the_sound_of_a_file_without_pictures_begins_at_its_start(tmp_path: Path) -> None:
    sound = clicks(tmp_path / "a.wav", 1.0, [0.0, 0.5])
    assert click_times(read_audio(sound)) == pytest.approx([0, 0.5], abs=0.001)


@pytest.mark.parametrize(
    ("kind", "late"), [("mp4", 0.0), ("mp4", 0.3), ("mkv", 0.3), ("webm", 0.3), ("ts", 0.0), ("ts", 0.3), ("mpg", 0.3)]
)
def test_written_sound_is_where_it_was_read(tmp_path: Path, kind: str, late: float) -> None:
    sound = clicks(tmp_path / "a.wav", 1.0, [0.2, 0.6])
    source = video(tmp_path / f"a.{kind}", 40, audio=sound, audio_before=["-itsoffset", str(late)])
    media = known(source)
    reader = VideoReader(source, info=media)
    assert media.audio
    for name in ("out.mp4", "out.mkv"):
        with VideoWriter(
            tmp_path / name,
            fps=reader.info.fps,
            size=(160, 120),
            like=reader.info,
            audio=source,
            preset="ultrafast",
        ) as out:
            for frame in reader:
                out.write(frame)
        assert lag(tmp_path / name, [5, 15]) == pytest.approx(late, abs=0.006)


def test_sound_from_a_file_of_its_own_starts_with_the_picture(tmp_path: Path) -> None:
    sound = clicks(tmp_path / "a.wav", 1.6, [0.2, 0.8])
    with VideoWriter(tmp_path / "a.mp4", fps=Fraction(25), size=(160, 120), audio=sound) as out:
        for i in range(40):
            out.write(coded(i))
    assert abs(lag(tmp_path / "a.mp4", [5, 20])) < 0.002
