from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.errors import ArtifactError, InputError
from stages.media import VideoInfo, VideoReader, VideoWriter, ffmpeg_binary, probe, read_audio
from stages.media.probe import read_tags
from tests.media.made import clicks, coded, ffmpeg, number, video

FPS = Fraction(25)


def smooth(count: int = 4, size: tuple[int, int] = (160, 120)) -> list[np.ndarray]:
    """Slow gradients of every hue: what an encoder keeps well, so that a shift of colour shows."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    planes = [
        np.stack([0.5 + 0.4 * np.sin(3 * x + i / 9), 0.5 + 0.4 * np.cos(2 * y + x), 0.5 + 0.4 * np.sin(2 * x - 2 * y)], 2)
        for i in range(count)
    ]
    return [(255 * p).round().astype(np.uint8) for p in planes]


def write(path: Path, frames: list[np.ndarray], fps: Fraction = FPS, **how: Any) -> Path:
    with VideoWriter(path, fps=fps, size=(frames[0].shape[1], frames[0].shape[0]), **how) as out:
        for frame in frames:
            out.write(frame)
    assert out.frames_written == len(frames)
    return path


def picture(path: Path) -> VideoInfo:
    info = probe(path).video
    assert info is not None
    return info


# -- lossless


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.m4v", "a.mkv"])
@pytest.mark.parametrize("size", [(64, 48), (33, 17)])
def test_lossless_keeps_every_value(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 256, (size[1], size[0], 3), np.uint8) for _ in range(4)]
    path = write(tmp_path / name, frames, lossless=True, preset="ultrafast")
    assert all(np.array_equal(a, b) for a, b in zip(VideoReader(path), frames, strict=True))


def test_lossless_of_a_tagged_source_keeps_what_rgb_can_say(tmp_path: Path) -> None:
    source = video(tmp_path / "a.mp4", smooth(), options=tagged("bt709"))
    frames = list(VideoReader(source))
    path = write(tmp_path / "b.mp4", frames, lossless=True, like=picture(source))
    assert all(np.array_equal(a, b) for a, b in zip(VideoReader(path), frames, strict=True))
    assert (picture(path).primaries, picture(path).transfer) == ("bt709", "bt709")


# -- colour


def tagged(matrix: str, levels: str = "tv", pixels: str = "yuv420p") -> list[str]:
    """Options of a file that says what its colours are, and is made accordingly; no tags for an empty name."""
    name = {"": "bt601", "smpte170m": "bt601", "bt470bg": "bt601", "bt2020nc": "bt2020"}.get(matrix, matrix)
    primaries, transfer = {"bt2020nc": ("bt2020", "smpte2084")}.get(matrix, (matrix, "gamma28" if matrix == "bt470bg" else matrix))
    tags = ["-colorspace", matrix, "-color_primaries", primaries, "-color_trc", transfer] if matrix else []
    mark = (
        f",setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer.replace('gamma28', 'bt470bg')}"
        if matrix
        else ",setparams=colorspace=unknown"
    )
    convert = f"scale=out_color_matrix={name}:out_range={levels}:flags=accurate_rnd+full_chroma_int,format={pixels}{mark}"
    return ["-vf", convert, "-c:v", "libx264", "-crf", "4", "-color_range", levels, *tags]


@pytest.mark.parametrize(
    ("matrix", "levels"),
    [
        ("bt709", "tv"),
        ("smpte170m", "tv"),
        ("bt470bg", "tv"),
        ("", "tv"),
        ("bt2020nc", "tv"),
        ("bt709", "pc"),
        ("smpte170m", "pc"),
        ("", "pc"),
    ],
)
def test_colours_and_their_tags_survive(tmp_path: Path, matrix: str, levels: str) -> None:
    source = video(tmp_path / "a.mp4", smooth(), options=tagged(matrix, levels))
    like = picture(source)
    assert (like.matrix, like.full_range) == (matrix, levels == "pc")
    frames = list(VideoReader(source))
    path = write(tmp_path / "b.mp4", frames, like=like, crf=10)
    got = picture(path)
    assert (got.matrix, got.primaries, got.transfer, got.full_range) == (like.matrix, like.primaries, like.transfer, like.full_range)
    error = np.stack(list(VideoReader(path))).astype(int) - np.stack(frames)
    assert np.abs(error).mean(axis=(0, 1, 2)).max() < 1.0
    assert np.abs(error.mean(axis=(0, 1, 2))).max() < 0.2  # no shift of any channel


def test_the_file_itself_has_the_sources_yuv_values(tmp_path: Path) -> None:
    """What a player makes of it does not depend on our own reading of tags."""
    for matrix in ("bt709", ""):
        source = video(tmp_path / "a.mp4", smooth(), options=tagged(matrix))
        path = write(tmp_path / "b.mp4", list(VideoReader(source)), like=picture(source), crf=4)
        planes = []
        for p in (source, path):
            command = [ffmpeg_binary(), "-v", "error", "-i", str(p), "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]
            planes.append(np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8).astype(int))
        assert np.abs(planes[0] - planes[1]).mean() < 1 and abs((planes[0] - planes[1]).mean()) < 0.3


def test_frames_of_our_own_are_bt709(tmp_path: Path) -> None:
    frames = smooth()
    path = write(tmp_path / "a.mp4", frames, crf=6)
    info = picture(path)
    assert (info.matrix, info.primaries, info.transfer, info.pixel_format, info.full_range) == ("bt709", "bt709", "bt709", "yuv420p", False)
    assert np.abs(np.stack(list(VideoReader(path))).astype(int) - np.stack(frames)).mean() < 1.5


def test_an_rgb_source_becomes_ordinary_yuv(tmp_path: Path) -> None:
    frames = smooth()
    source = write(tmp_path / "a.mp4", frames, lossless=True)
    assert picture(source).matrix == "gbr"
    path = write(tmp_path / "b.mp4", frames, like=picture(source), crf=6)
    assert (picture(path).matrix, picture(path).pixel_format) == ("bt709", "yuv420p")
    assert np.abs(np.stack(list(VideoReader(path))).astype(int) - np.stack(frames)).mean() < 1.5


def test_a_matrix_or_name_that_the_encoder_lacks_is_dropped_not_refused(tmp_path: Path) -> None:
    like = replace(picture(video(tmp_path / "a.mp4", 2)), matrix="ictcp", primaries="vgamut", transfer="vlog")
    path = write(tmp_path / "b.mp4", smooth(), like=like)
    assert (picture(path).matrix, picture(path).primaries, picture(path).transfer) == ("", "", "")


def test_deep_colour_becomes_eight_bit_without_a_shift(tmp_path: Path) -> None:
    source = video(tmp_path / "a.mkv", smooth(), options=[*tagged("bt709", pixels="yuv420p10le")])
    frames = list(VideoReader(source))
    path = write(tmp_path / "b.mp4", frames, like=picture(source), crf=8)
    assert picture(path).pixel_format == "yuv420p"
    error = np.stack(list(VideoReader(path))).astype(int) - np.stack(frames)
    assert np.abs(error).mean() < 1 and np.abs(error.mean(axis=(0, 1, 2))).max() < 0.35


# -- shape, rate


@pytest.mark.parametrize("rate", ["24000/1001", "25", "30000/1001", "60", "25/2", "2998/100"])
def test_rate_and_number_of_frames_are_kept(tmp_path: Path, rate: str) -> None:
    for name in ("a.mp4",) if rate != "30000/1001" else ("a.mp4", "a.mkv"):
        path = write(tmp_path / name, [coded(i) for i in range(20)], Fraction(rate), preset="ultrafast")
        assert picture(path).fps == Fraction(rate) and [number(f) for f in VideoReader(path)] == list(range(20))


@pytest.mark.parametrize("size", [(161, 121), (160, 121), (34, 18)])
def test_any_size_is_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = smooth(3, size)
    path = write(tmp_path / "a.mp4", frames, crf=4)
    assert (picture(path).width, picture(path).height) == size
    assert np.abs(np.stack(list(VideoReader(path))).astype(int) - np.stack(frames)).mean() < 3


@pytest.mark.parametrize(("size", "aspect"), [((160, 120), "16:11"), ((120, 160), "11:16"), ((161, 121), "64:45")])
@pytest.mark.parametrize("lossless", [False, True])
def test_pixels_that_are_not_square_stay_so(tmp_path: Path, size: tuple[int, int], aspect: str, lossless: bool) -> None:
    like = replace(picture(video(tmp_path / "a.mp4", 2)), sample_aspect=aspect)
    path = write(tmp_path / "b.mp4", smooth(2, size), like=like, lossless=lossless)
    assert picture(path).sample_aspect == aspect


@pytest.mark.parametrize("first", ["top", "bottom"])
def test_woven_fields_stay_woven_and_told(tmp_path: Path, first: str) -> None:
    frames = [np.zeros((120, 160, 3), np.uint8) for _ in range(6)]
    for i, frame in enumerate(frames):  # a bar that moves from field to field
        frame[0::2, 20 * i : 20 * i + 20] = 220
        frame[1::2, 20 * i + 10 : 20 * i + 30] = 220
    field = {"top": "tff", "bottom": "bff"}[first]
    woven = f"-vf setfield={field} -flags +ildct+ilme -x264-params {field}=1 -c:v libx264 -crf 4 -pix_fmt yuv420p".split()
    source = video(tmp_path / "a.mp4", frames, options=woven)
    like = picture(source)
    assert like.interlaced == first and like.fps == 25
    read = list(VideoReader(source))
    path = write(tmp_path / "b.mp4", read, like=like, crf=4)
    assert picture(path).interlaced == first
    assert np.abs(np.stack(list(VideoReader(path))).astype(int) - np.stack(read)).mean() < 2


def test_a_turned_source_is_written_upright(tmp_path: Path) -> None:
    source, turned = video(tmp_path / "a.mp4", 3), tmp_path / "b.mp4"
    try:
        ffmpeg("-display_rotation", 90, "-i", source, "-c", "copy", turned)
    except AssertionError:
        pytest.skip("this ffmpeg has no -display_rotation")
    frames = list(VideoReader(turned))
    info = picture(write(tmp_path / "c.mp4", frames, like=picture(turned)))
    assert (info.width, info.height, info.rotation) == (120, 160, 0)


# -- sound


def packets(path: Path) -> list[str]:
    """Digest of each packet of the first sound stream."""
    command = [ffmpeg_binary(), "-v", "error", "-i", str(path), "-map", "0:a:0", "-c", "copy", "-f", "framehash", "-hash", "md5", "-"]
    out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [line.split(",")[5].strip() for line in out.splitlines() if not line.startswith("#")]


def spoken(tmp_path: Path, name: str, *options: str, rate: int = 48_000, channels: int = 2) -> Path:
    ffmpeg("-i", clicks(tmp_path / "in.wav", 1.0, [0.2, 0.7], rate, channels), *options, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "codec", "out"),
    [
        ("a.m4a", "aac", "o.mp4"),
        ("a.mp3", "libmp3lame", "o.mp4"),
        ("a.m4a", "alac", "o.mp4"),
        ("a.ac3", "ac3", "o.mp4"),
        ("a.m4a", "aac", "o.mov"),
        ("a.wav", "pcm_s16le", "o.mov"),
        ("a.wav", "pcm_s16le", "o.mkv"),
        ("a.flac", "flac", "o.mkv"),
        ("a.ogg", "libopus", "o.mkv"),
        ("a.ogg", "libvorbis", "o.mkv"),
    ],
)
def test_sound_is_copied_bit_for_bit_where_the_container_takes_it(tmp_path: Path, name: str, codec: str, out: str) -> None:
    sound = spoken(tmp_path, name, "-c:a", codec)
    info = probe(sound).audio
    assert info is not None
    path = write(tmp_path / out, [coded(i) for i in range(25)], audio=sound, preset="ultrafast")
    before, after = packets(sound), packets(path)
    if codec.startswith("pcm") or codec == "flac":  # cut into packets anew: the samples tell
        assert np.array_equal(read_audio(sound), read_audio(path))
    else:
        assert after == before


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1), (16_000, 1), (8_000, 1), (96_000, 2)])
def test_pcm_in_mp4_becomes_aac_at_its_own_rate_and_channels(tmp_path: Path, rate: int, channels: int) -> None:
    sound = clicks(tmp_path / "a.wav", 1.0, [0.2, 0.7], rate, channels)
    path = write(tmp_path / "a.mp4", [coded(i) for i in range(25)], audio=sound, preset="ultrafast")
    info = probe(path).audio
    assert info and (info.codec, info.sample_rate, info.channels) == ("aac", rate, {1: "mono", 2: "stereo"}[channels])
    assert len(read_audio(path)) == pytest.approx(16_000, abs=1100)  # one packet of 1024 at most


def test_only_the_first_track_of_the_sounds_file_is_taken(tmp_path: Path) -> None:
    source = video(tmp_path / "a.mp4", 25, audio=clicks(tmp_path / "a.wav", 1.0, [0.2]))
    path = write(tmp_path / "b.mp4", smooth(25), audio=source, preset="ultrafast")
    assert packets(path) == packets(source)
    assert picture(path).codec == "h264" and np.abs(next(iter(VideoReader(path))).astype(int) - smooth(1)[0]).mean() < 4


def test_metadata_of_any_content_is_written(tmp_path: Path) -> None:
    tags = {"comment": "made by AI = synthetic; 'quoted' \"twice\" \\ #1", "title": "ünï ☃", "difftalk": "watermarked"}
    for name in ("a.mp4", "a.mov"):
        found = read_tags(write(tmp_path / name, smooth(2), metadata=tags))
        assert tags.items() <= found.items()


# -- places and failures


@pytest.mark.parametrize("name", ["two words.mp4", 'it\'s "quoted".mp4', "100%d.mp4", "-dash.mp4", "co:lon.mp4", "ünï ☃.mkv", "[a]*?.mp4"])
def test_the_output_may_be_called_anything(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = clicks(tmp_path / f"s {name}.wav", 0.2, [0.1])
    monkeypatch.chdir(tmp_path)
    path = write(Path("new folder") / name, [coded(i) for i in range(5)], audio=sound)
    assert [number(f) for f in VideoReader(path)] == [0, 1, 2, 3, 4]
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == [name]


def test_a_container_that_does_not_take_it_tells_ffmpegs_words(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ffmpeg cannot write .*a\.webm: ") as caught:
        write(tmp_path / "a.webm", [coded(i) for i in range(200)])
    assert "Only VP8 or VP9" in caught.value.detail


def test_sound_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("no sound at all")
    with pytest.raises(InputError, match=r"a\.wav: not a media file"):
        write(tmp_path / "a.mp4", smooth(2), audio=tmp_path / "a.wav")


def test_no_frame_is_an_error_not_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frame to write"), VideoWriter(tmp_path / "a.mp4", fps=FPS, size=(64, 48)):
        pass


def test_a_frame_of_another_size_is_our_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), VideoWriter(tmp_path / "a.mp4", fps=FPS, size=(64, 48)) as out:
        out.write(np.zeros((64, 48, 3), np.uint8))


def test_an_encoder_that_is_killed_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot write .*: ffmpeg was stopped by SIGKILL"), VideoWriter(
        tmp_path / "a.mp4", fps=FPS, size=(160, 120)
    ) as out:  # fmt: skip
        out.write(coded(0))
        out._process.send_signal(signal.SIGKILL)
        for i in range(200):
            out.write(coded(i))


def test_a_block_that_fails_ends_ffmpeg_and_passes_its_error_on(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "a.mp4", fps=FPS, size=(160, 120)) as out:
        out.write(coded(0))
        raise ZeroDivisionError
    assert out._process.poll() is not None
    assert not (tmp_path / "a.mp4").exists() or b"moov" not in (tmp_path / "a.mp4").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "a.mkv").symlink_to("/dev/full")
    with pytest.raises(ArtifactError, match=r"cannot write .*a\.mkv: the disk is full"):
        write(tmp_path / "a.mkv", [coded(i % 4000) for i in range(100)], lossless=True, preset="ultrafast")


LIMITED = (
    "import sys, pathlib, numpy as np; from fractions import Fraction; from stages.media import VideoWriter\n"
    "from stages.errors import ArtifactError\n"
    "noise = np.random.default_rng(0)\n"
    "try:\n"
    "    with VideoWriter(pathlib.Path(sys.argv[1]), fps=Fraction(25), size=(160, 120), lossless=True) as out:\n"
    "        for _ in range(20): out.write(noise.integers(0, 256, (120, 160, 3), np.uint8))\n"
    "except ArtifactError as error:\n"
    "    sys.exit(f'told: {error}')\n"
)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_limit_on_file_sizes_is_told(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / name], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("told: cannot write"), done.stderr


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_real_full_disk_is_told(tmp_path: Path, name: str) -> None:
    mount = f'mount -t tmpfs -o size=300k none "{tmp_path}"'
    if not shutil.which("unshare") or subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    script = f'{mount} && "$1" -c "$2" "$3"'
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", sys.executable, LIMITED, tmp_path / name], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "told: cannot write" in done.stderr and "disk is full" in done.stderr, done.stderr


def test_the_errors_that_are_the_disks_have_the_names_that_ffmpeg_prints() -> None:
    assert os.strerror(errno.ENOSPC) == "No space left on device" and os.strerror(errno.EFBIG) == "File too large"
