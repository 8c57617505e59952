"""Every frame at its moment, from any container: each made frame carries its number, which must survive."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stages.errors import InputError
from stages.media import VideoReader, ffmpeg_binary, probe
from tests.media.made import CONTAINERS, coded, ffmpeg, known, number, variable, video

RATES = ["24000/1001", "24", "25", "30000/1001", "30", "50", "60000/1001", "60", "15", "25/2"]


def numbers(path: Path, start_seconds: float = 0.0, frames: int | None = None) -> list[int]:
    return [number(f) for f in VideoReader(path, info=known(path), start_seconds=start_seconds, frames=frames)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fifty frames in every container; a key frame is every 12th."""
    folder = tmp_path_factory.mktemp("clips")
    return {kind: video(folder / f"a.{kind}", 50) for kind in CONTAINERS}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_frame_of_every_container_in_order(clips: dict[str, Path], kind: str) -> None:
    reader = VideoReader(clips[kind])
    assert [number(f) for f in reader] == list(range(50))
    assert (reader.info.fps, reader.info.variable, reader.frames_read, reader.warning) == (25, False, 50, "")
    assert reader.shape == (120, 160, 3)


@pytest.mark.parametrize(("kind", "rate"), [*(("mp4", rate) for rate in RATES), *(("mkv", rate) for rate in RATES[::3])])
def test_the_rate_is_exact_and_no_frame_is_lost_or_repeated(tmp_path: Path, kind: str, rate: str) -> None:
    path = video(tmp_path / f"a.{kind}", 40, rate)
    info = probe(path).video
    assert info is not None and (info.fps, info.variable) == (Fraction(rate), False)
    assert numbers(path) == list(range(40))


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_start_is_exact_in_every_container(clips: dict[str, Path], kind: str) -> None:
    for first in (1, 23, 24, 37, 49):
        assert numbers(clips[kind], first / 25, 2) == list(range(first, min(first + 2, 50)))


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
@pytest.mark.parametrize("rate", ["30000/1001", "24000/1001"])
def test_a_start_is_exact_far_from_a_key_frame_and_at_odd_rates(tmp_path: Path, kind: str, rate: str) -> None:
    options = "-c:v libx264 -preset ultrafast -bf 3 -g 500 -pix_fmt yuv420p".split()
    path = video(tmp_path / f"a.{kind}", 100, rate, options=options)
    for first in (1, 55, 99):
        assert numbers(path, float(first / Fraction(rate)), 1) == [first]


def test_a_start_is_exact_with_open_groups_and_without_an_index(tmp_path: Path, clips: dict[str, Path]) -> None:
    opened = "-c:v libx264 -preset veryfast -x264-params keyint=12:open-gop=1:bframes=3 -pix_fmt yuv420p".split()
    fragments = [*CONTAINERS["mp4"][:-2], "-movflags", "frag_keyframe+empty_moov"]
    paths = [video(tmp_path / "a.mp4", 50, options=opened), video(tmp_path / "b.mp4", 50, options=fragments), tmp_path / "c.webm"]
    command = [ffmpeg_binary(), "-v", "error", "-i", str(clips["webm"]), "-c", "copy", "-f", "webm", "-"]
    paths[2].write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)  # a pipe has no index
    for path in paths:
        assert numbers(path) == list(range(50))
        assert [numbers(path, first / 25, 1) for first in (24, 40)] == [[24], [40]], path


def test_a_start_between_frames_takes_the_nearest(clips: dict[str, Path]) -> None:
    path = clips["mp4"]
    assert [numbers(path, 20.4 / 25, 1), numbers(path, 20.6 / 25, 1)] == [[20], [21]]


def test_a_start_after_the_end_is_an_error(clips: dict[str, Path]) -> None:
    for kind in ("mp4", "ts"):
        with pytest.raises(InputError, match=r"no frame at or after 9\.000 s"):
            numbers(clips[kind], 9.0)


# -- variable frame rate

UNEVEN = {
    "a gap": [*range(0, 80, 4), *range(100, 160, 4)],
    "two rates": [*range(0, 80, 4), *range(80, 160, 8)],
    "at will": [0, *sorted(random.Random(1).sample(range(1, 160), 50))],
}


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "ts"])
@pytest.mark.parametrize("name", UNEVEN)
def test_a_variable_rate_is_read_at_a_constant_one_each_frame_at_its_moment(tmp_path: Path, kind: str, name: str) -> None:
    shown = UNEVEN[name]
    path = variable(tmp_path / f"a.{kind}", shown)
    reader = VideoReader(path, info=known(path))
    fps = reader.info.fps
    assert reader.info.variable and fps in (25, 100)
    places = [(math.floor(t * fps / 100 + Fraction(1, 2)), t) for t in shown]
    expected = [next(t for place, t in reversed(places) if place <= i) for i in range(places[-1][0] + 1)]
    found = [number(f) for f in reader]
    held = found[len(expected) :]  # the last frame lasts as long as the container says
    assert found[: len(expected)] == expected and set(held) <= {expected[-1]} and len(held) <= 8
    for first in (25, 38):
        assert numbers(path, float(first / fps), 2) == expected[first : first + 2]


def test_one_lost_frame_is_held_not_closed_up(tmp_path: Path) -> None:
    path = variable(tmp_path / "a.mp4", [t for t in range(0, 160, 4) if t != 80])
    assert numbers(path)[18:23] == [72, 76, 76, 84, 88]


def test_a_picture_that_changes_its_size_keeps_its_time(tmp_path: Path) -> None:
    options = CONTAINERS["ts"][:-2]
    first = video(tmp_path / "1.ts", 25, options=options)
    frames = [coded(25 + i, (320, 240)) for i in range(25)]
    second = video(tmp_path / "2.ts", frames, options=[*options, "-output_ts_offset", "1.08"], size=(320, 240))
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    reader = VideoReader(both)
    assert [number(f) for f in reader] == list(range(50)) and reader.shape == (120, 160, 3)


# -- what the picture looks like


@pytest.mark.parametrize(("turn", "size"), [(90, (120, 160)), (180, (160, 120)), (270, (120, 160))])
def test_a_turned_video_comes_upright(tmp_path: Path, turn: int, size: tuple[int, int]) -> None:
    source, path = video(tmp_path / "a.mp4", 3), tmp_path / "turned.mp4"
    try:
        ffmpeg("-display_rotation", turn, "-i", source, "-c", "copy", path)
    except AssertionError:
        ffmpeg("-i", source, "-c", "copy", "-metadata:s:v", f"rotate={turn}", path)  # before version 6
    reader = VideoReader(path)
    assert (reader.info.width, reader.info.height) == size
    assert [number(np.rot90(f, -turn // 90)) for f in reader] == [0, 1, 2] or reader.info.rotation == 360 - turn


@pytest.mark.parametrize("size", [(161, 121), (33, 17), (2, 2), (8, 200)])
def test_odd_and_tiny_sizes_are_read_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    options = "-c:v libx264 -preset ultrafast -pix_fmt yuv444p".split()
    reader = VideoReader(video(tmp_path / "a.mkv", 3, options=options, size=size))
    frames = list(reader)
    assert len(frames) == 3 and frames[0].shape == (size[1], size[0], 3)


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"])
def test_levels_are_right_in_every_pixel_format(tmp_path: Path, pixels: str) -> None:
    grey = [np.full((120, 160, 3), v, np.uint8) for v in (0, 64, 128, 200, 255)]
    codec = "mjpeg -q:v 2" if pixels == "yuvj420p" else "ffv1"
    path = video(tmp_path / "a.mkv", grey, options=f"-c:v {codec} -pix_fmt {pixels}".split())
    for made, read in zip(grey, VideoReader(path), strict=True):
        assert np.abs(read.astype(int) - made).max() <= 2


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
def test_the_colour_tag_decides_the_matrix(tmp_path: Path, matrix: str) -> None:
    colour = np.zeros((120, 160, 3), np.uint8) + np.array([200, 60, 90], np.uint8)
    name = {"bt2020nc": "bt2020", "smpte170m": "bt601"}.get(matrix, matrix)
    options = ["-vf", f"scale=out_color_matrix={name},format=yuv444p", "-colorspace", matrix, "-c:v", "libx264", "-qp", "1"]
    path = video(tmp_path / "a.mp4", [colour] * 3, options=options)
    assert probe(path).video.matrix == matrix  # type: ignore[union-attr]
    assert np.abs(next(iter(VideoReader(path))).astype(int) - colour).max() <= 4


def test_frames_are_read_only_arrays_of_their_own(clips: dict[str, Path]) -> None:
    frames = list(VideoReader(clips["mp4"], frames=3))
    assert all(not f.flags.writeable and f.dtype == np.uint8 for f in frames)
    assert [number(f) for f in frames] == [0, 1, 2]


# -- running it


def test_frames_limits_and_reading_again_starts_anew(clips: dict[str, Path]) -> None:
    reader = VideoReader(clips["mp4"], frames=4)
    for _ in "xy":
        assert [number(f) for f in reader] == [0, 1, 2, 3] and reader.frames_read == 4


def children() -> list[str]:
    """Command lines of our living child processes."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.append((stat.parent / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_leaving_the_loop_leaves_no_ffmpeg(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 200)
    before = [c for c in children() if "ffmpeg" in c]
    for frame in VideoReader(path):
        assert number(frame) == 0
        break
    with pytest.raises(ZeroDivisionError):
        for _ in VideoReader(path):
            raise ZeroDivisionError
    frames = iter(VideoReader(path))
    next(frames)
    assert len([c for c in children() if "ffmpeg" in c]) == len(before) + 1
    del frames
    time.sleep(0.05)
    assert [c for c in children() if "ffmpeg" in c] == before


PEAK = (
    "import sys, pathlib; from stages.media import VideoReader\n"
    "n = sum(1 for _ in VideoReader(pathlib.Path(sys.argv[1])))\n"
    "print(n, pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    peaks = []
    for seconds in (10, 60):
        path = tmp_path / f"{seconds}.mp4"
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=s=320x240:r=25:d={seconds}", "-c:v", "mpeg4", "-q:v", 9, path)
        done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
        frames, kilobytes = map(int, done.stdout.split())
        assert frames == 25 * seconds
        peaks.append(kilobytes)
    assert peaks[1] - peaks[0] < 5_000  # the 1250 further frames are 288 MB


# -- damage


def test_a_file_that_ends_early_gives_what_is_there_and_a_warning(tmp_path: Path) -> None:
    for kind in ("mkv", "ts", "avi"):
        whole = video(tmp_path / f"a.{kind}", 60, options=CONTAINERS[kind][:-2])
        torn = tmp_path / f"torn.{kind}"
        torn.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
        found = numbers(torn)
        assert 10 < len(found) < 60 and found[:10] == list(range(10))


def test_a_damaged_middle_is_told(tmp_path: Path) -> None:
    data = bytearray(video(tmp_path / "a.mp4", 60).read_bytes())
    middle = data.index(b"mdat") + 4 + 800
    data[middle : middle + 400] = os.urandom(400)
    (tmp_path / "b.mp4").write_bytes(data)
    reader = VideoReader(tmp_path / "b.mp4")
    assert 50 <= len(list(reader)) <= 60 and reader.warning


def test_only_sound_is_no_video(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "a.m4a")
    with pytest.raises(InputError, match=r"a\.m4a: no video stream"):
        VideoReader(tmp_path / "a.m4a")


def test_a_video_without_a_frame_is_an_error(tmp_path: Path) -> None:
    whole = video(tmp_path / "a.mkv", 30).read_bytes()
    (tmp_path / "b.mkv").write_bytes(whole[: whole.index(b"\x1f\x43\xb6\x75") + 40])  # cut in the first cluster
    with pytest.raises(InputError, match=r"b\.mkv: (no frame can be decoded|not a media file|no video stream)"):
        list(VideoReader(tmp_path / "b.mkv"))


ODD = ["two words.mp4", 'it\'s "quoted".mp4', "100%d.mp4", "-dash.mp4", "co:lon.mp4", "ünï ☃.mp4", "[a]*?.mp4", "#1&2.mp4", "a\\b.mp4"]


@pytest.mark.parametrize("name", ODD)
def test_a_file_may_be_called_anything(tmp_path: Path, clips: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    path.write_bytes(clips["mp4"].read_bytes())
    assert numbers(path, frames=3) == [0, 1, 2]
    monkeypatch.chdir(tmp_path)
    assert [number(f) for f in VideoReader(Path(name), frames=3)] == [0, 1, 2]
