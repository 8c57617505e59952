from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest

from stages.errors import InputError
from stages.media import probe
from stages.media.probe import packet_times, snap_rate
from tests.media.made import CONTAINERS, clicks, ffmpeg, video


def test_a_usual_file(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 25, audio=clicks(tmp_path / "a.wav", 1, [0.5], channels=2))
    info = probe(path)
    assert info.container.startswith("mov") and info.seconds == pytest.approx(1, abs=0.03)
    assert info.video and (info.video.width, info.video.height, info.video.fps, info.video.codec) == (160, 120, 25, "h264")
    assert (info.video.pixel_format, info.video.rotation, info.video.sample_aspect, info.video.lead) == ("yuv420p", 0, "1:1", 0.0)
    assert info.audio and (info.audio.codec, info.audio.sample_rate, info.audio.channels, info.audio.index) == ("aac", 48000, "stereo", 0)


def test_no_sound_and_no_picture(tmp_path: Path) -> None:
    assert probe(video(tmp_path / "a.mp4", 5)).audio is None
    sound = probe(clicks(tmp_path / "a.wav", 1, [0.5]))
    assert sound.video is None and sound.audio and sound.audio.codec == "pcm_s16le"


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=s=64x64:d=0.04", "-frames:v", 1, tmp_path / "c.jpg")
    sound = clicks(tmp_path / "a.wav", 1, [0.5])
    maps = ["-map", "0:a", "-map", "1:v", "-c:v", "mjpeg", "-disposition:v:0", "attached_pic"]
    for name, codec in (("a.m4a", "aac"), ("a.mp3", "libmp3lame")):
        ffmpeg("-i", sound, "-i", tmp_path / "c.jpg", *maps, "-c:a", codec, tmp_path / name)
        info = probe(tmp_path / name)
        assert info.video is None and info.audio is not None


def test_the_first_of_several_sound_tracks_is_taken(tmp_path: Path) -> None:
    one, two = (clicks(tmp_path / f"{i}.wav", 1, [0.5], rate=r) for i, r in enumerate((44100, 48000)))
    ffmpeg("-i", one, "-i", two, "-map", "0", "-map", "1", "-c:a", "aac", tmp_path / "a.mp4")
    audio = probe(tmp_path / "a.mp4").audio
    assert audio and (audio.sample_rate, audio.index) == (44100, 0)


H264 = "h264 (High) (avc1 / 0x31637661), yuv420p(tv, bt709, progressive), 640x480 [SAR 1:1 DAR 4:3], 9 kb/s"
PLAIN = "h264 (Main) (avc1 / 0x31637661), yuv420p, 160x120, 47 kb/s, 25 fps, 25 tbr, 12800 tbn, 50 tbc (default)"
WOVEN = "mpeg2video (Main) ([2][0][0][0] / 0x0002), yuv420p(tv, bt470bg/bt470m/bt470m, top first), 720x576 [SAR 16:11 DAR 20:11]"
HDR = "hevc (Main 10) (hvc1 / 0x31637668), yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67), 1920x1080, 23.98 fps, 23.98 tbr"
WEBCAM = "mjpeg (Baseline) (MJPG / 0x47504A4D), yuvj422p(pc, bt470bg/unknown/unknown), 8x6, 15 fps, 15 tbr, 1k tbn"
LOSSLESS = "h264 (High 4:4:4 Predictive), gbrp(pc, gbr/unknown/unknown, progressive), 160x120, 25 fps, 25 tbr, 1k tbn"
BROWSER = "vp9 (Profile 0), yuv420p(tv, unknown/bt709/unknown), 160x120, SAR 1:1 DAR 4:3, 1k fps, 1k tbr, 1k tbn"

TEXTS = {
    f"Stream #0:0[0x1](und): Video: {H264}, 29.97 fps, 29.97 tbr, 30k tbn (default)": (
        *("h264", "yuv420p", 640, 480, "bt709", "bt709", "bt709", False, "1:1", Fraction(30000, 1001), ""),
    ),
    f"Stream #0:0(eng): Video: {PLAIN}": ("h264", "yuv420p", 160, 120, "", "", "", False, "1:1", Fraction(25), ""),
    f"Stream #0:1[0x100]: Video: {WOVEN}, 25 fps, 50 tbr, 90k tbn": (
        *("mpeg2video", "yuv420p", 720, 576, "bt470bg", "bt470m", "bt470m", False, "16:11", Fraction(25), "top"),
    ),
    f"Stream #0:0: Video: {HDR}": (
        *("hevc", "yuv420p10le", 1920, 1080, "bt2020nc", "bt2020", "arib-std-b67", False, "1:1", Fraction(24000, 1001), ""),
    ),
    f"Stream #0:0: Video: {WEBCAM}": ("mjpeg", "yuvj422p", 8, 6, "bt470bg", "", "", True, "1:1", Fraction(15), ""),
    f"Stream #0:0: Video: {LOSSLESS}": ("h264", "gbrp", 160, 120, "gbr", "", "", True, "1:1", Fraction(25), ""),
    f"Stream #0:0(eng): Video: {BROWSER}": ("vp9", "yuv420p", 160, 120, "", "bt709", "", False, "1:1", Fraction(25), ""),
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_ffmpeg_says_is_understood(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"Input #0, mov, from 'file:x':\n  Duration: 00:00:02.00, start: 0.000000, bitrate: 9 kb/s\n  {text}\n"
    monkeypatch.setattr("stages.media.ffmpeg.run", lambda args, check=None: (b"", said if "framecrc" not in args else "", 1))
    (tmp_path / "x").write_text("x")
    v = probe(tmp_path / "x").video
    assert v is not None
    found = (
        v.codec,
        v.pixel_format,
        v.width,
        v.height,
        v.matrix,
        v.primaries,
        v.transfer,
        v.full_range,
        v.sample_aspect,
        v.fps,
        v.interlaced,
    )
    assert found == TEXTS[text]


def test_tracks_that_nothing_can_decode_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "Input #0, mov, from 'file:x':\n  Duration: 00:00:02.00, start: 0.000000\n"
        "  Stream #0:0(und): Audio: none (apac / 0x63617061), 48000 Hz, 4 channels, 300 kb/s\n"
        "  Stream #0:1(und): Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, stereo, fltp, 200 kb/s (default)\n"
    )
    monkeypatch.setattr("stages.media.ffmpeg.run", lambda args, check=None: (b"", said, 1))
    (tmp_path / "x").write_text("x")
    audio = probe(tmp_path / "x").audio
    assert audio and (audio.codec, audio.sample_rate, audio.index) == ("aac", 44100, 1)


def test_a_title_cannot_pass_for_a_stream(tmp_path: Path) -> None:
    lies = "x\nStream #0:0: Video: h264, yuv420p, 9999x9999, 7 fps\n  Duration: 99:00:00.00\nInput #0, lies, from"
    path = tmp_path / "a.mp4"
    ffmpeg("-i", video(tmp_path / "b.mp4", 10), "-c", "copy", "-metadata", f"title={lies}", path)
    info = probe(path)
    assert info.video and (info.video.width, info.video.fps) == (160, 25) and info.seconds and info.seconds < 1


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"the file is empty \(0 bytes\)"), (b"just some words\n" * 20, "not a media file that ffmpeg can open"),
     (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "not a media file"), (os.urandom(4096), "not a media file")],
    ids=["empty", "text", "playlist", "noise"],
)  # fmt: skip
def test_what_is_no_media_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.mp4: {message}"):
        probe(tmp_path / "a.mp4")


def test_absent_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        probe(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="a folder"):
        probe(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 3)
    path.chmod(0)
    with pytest.raises(InputError, match=r"a\.mp4: cannot be read \(Permission denied\)"):
        probe(path)


def test_a_recording_without_its_index_is_told(tmp_path: Path) -> None:
    whole = video(tmp_path / "a.mp4", 30).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r"it ends before its index") as caught:
        probe(tmp_path / "b.mp4")
    assert "moov atom not found" in caught.value.detail


@pytest.mark.parametrize(
    ("stated", "rate"),
    [(29.97, "30000/1001"), (23.98, "24000/1001"), (23.976, "24000/1001"), (59.94, "60000/1001"), (25.0, "25"), (14.99, "15000/1001"),
     (12.5, "25/2"), (30.0001, "30"), (28.7, "287/10")],
)  # fmt: skip
def test_rates_snap_to_the_standard_ones(stated: float, rate: str) -> None:
    assert snap_rate(stated) == Fraction(rate)


@pytest.mark.parametrize("kind", [k for k in CONTAINERS if k != "gif"])
def test_packet_times_are_even(tmp_path: Path, kind: str) -> None:
    times = packet_times(video(tmp_path / f"a.{kind}", 20))
    assert len(times) == 20 and [round(float(t) * 25, 1) for t in times - times[0]] == list(range(20))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_few_frames_have_the_stated_rate(tmp_path: Path, frames: int) -> None:
    for kind in ("mp4", "mkv"):
        info = probe(video(tmp_path / f"a.{kind}", frames, "30000/1001")).video
        assert info and info.fps == Fraction(30000, 1001) and not info.variable


def test_pixels_that_are_not_square_are_told_as_shown(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 3, options=[*CONTAINERS["mp4"][:-2], "-vf", "setsar=16/11"])
    assert probe(path).video.sample_aspect == "16:11"  # type: ignore[union-attr]
    try:
        ffmpeg("-display_rotation", 90, "-i", path, "-c", "copy", tmp_path / "b.mp4")
    except AssertionError:
        pytest.skip("this ffmpeg has no -display_rotation")
    assert probe(tmp_path / "b.mp4").video.sample_aspect == "11:16"  # type: ignore[union-attr]
