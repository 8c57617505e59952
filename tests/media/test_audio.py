from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from stages.errors import InputError
from stages.media import audio_seconds, probe, read_audio, write_wav
from stages.media.audio import stream_audio
from tests.media.made import click_times, clicks, ffmpeg, video


def tone(path: Path, *options: str, seconds: float = 1.0, rate: int = 48_000, layout: str = "mono") -> Path:
    """A 440 Hz tone at a quarter of full scale in every channel."""
    source = f"sine=f=440:r={rate}:d={seconds},volume=2,aformat=channel_layouts={layout}"
    ffmpeg("-f", "lavfi", "-i", source, "-t", seconds, *options, path)
    return path


def test_sixteen_kilohertz_mono_is_read_sample_by_sample(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 16_123, np.int16)
    write_wav(tmp_path / "a.wav", samples)
    assert np.array_equal(read_audio(tmp_path / "a.wav"), samples)
    for start, seconds in ((0.25, 0.5), (0.7501, None), (0.0, 0.3)):
        part = read_audio(tmp_path / "a.wav", start_seconds=start, seconds=seconds)
        first = round(start * 16_000)
        assert np.array_equal(part, samples[first : None if seconds is None else first + round(seconds * 16_000)])


@pytest.mark.parametrize(
    ("name", "options", "rate"),
    [
        ("a.wav", "-c:a pcm_s16le", 8_000),
        ("a.wav", "-c:a pcm_s16le", 11_025),
        ("a.wav", "-c:a pcm_s16le", 44_100),
        ("a.wav", "-c:a pcm_u8", 16_000),
        ("a.wav", "-c:a pcm_s24le", 48_000),
        ("a.wav", "-c:a pcm_f32le", 96_000),
        ("a.m4a", "-c:a aac", 44_100),
        ("a.mp3", "-c:a libmp3lame", 44_100),
        ("a.ogg", "-c:a libvorbis", 44_100),
        ("a.opus", "-c:a libopus", 48_000),
        ("a.flac", "-c:a flac", 48_000),
        ("a.aac", "-c:a aac", 48_000),
    ],
)
def test_every_kind_of_sound_has_its_length_and_level(tmp_path: Path, name: str, options: str, rate: int) -> None:
    samples = read_audio(tone(tmp_path / name, *options.split(), rate=rate, seconds=1.5))
    assert samples.dtype == np.int16 and samples.ndim == 1
    assert len(samples) == pytest.approx(24_000, abs=2 * 1152 * 16_000 / rate)  # a packet of coder delay at each end
    middle = samples[8_000:16_000].astype(float)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(32768 / 4 / np.sqrt(2), rel=0.06)
    assert np.abs(np.fft.rfft(middle)).argmax() == 220  # half-hertz steps


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1", "7.1"])
def test_channels_are_mixed_to_one(tmp_path: Path, layout: str) -> None:
    samples = read_audio(tone(tmp_path / "a.wav", layout=layout)).astype(float)
    assert len(samples) == 16_000 and 1000 < np.sqrt(np.mean(samples[4000:12000] ** 2)) < 9000


def test_one_sided_sound_is_heard(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "sine=f=440:d=1", "-af", "volume=2,pan=stereo|c0=0*c0|c1=c0", tmp_path / "a.wav")
    assert np.abs(read_audio(tmp_path / "a.wav")).max() > 3000


def test_pieces_are_the_whole(tmp_path: Path) -> None:
    path = clicks(tmp_path / "a.wav", 2.5, [0.3, 1.9], rate=44_100)
    pieces = list(stream_audio(path, chunk_seconds=0.4))
    assert [len(p) for p in pieces[:-1]] == [6400] * (len(pieces) - 1)
    assert np.array_equal(np.concatenate(pieces), read_audio(path))
    assert audio_seconds(path) == pytest.approx(2.5, abs=0.001)


def test_a_gap_in_the_sound_is_silence_not_a_jump(tmp_path: Path) -> None:
    sound = clicks(tmp_path / "a.wav", 2.0, [0.2, 1.6])
    drop = "aselect='not(between(t,0.5,1.2))'"  # timestamps stay: the file has a hole
    ffmpeg("-i", sound, "-af", drop, "-c:a", "aac", tmp_path / "b.mkv")
    assert click_times(read_audio(tmp_path / "b.mkv")) == pytest.approx([0.2, 1.6], abs=0.03)


@pytest.mark.parametrize("name", ["a.m4a", "a.mp3", "a.ogg", "a.mkv", "a.ts"])
def test_a_start_is_exact_in_every_container(tmp_path: Path, name: str) -> None:
    codec = {"a.mp3": "libmp3lame", "a.ogg": "libvorbis"}.get(name, "aac")
    ffmpeg("-i", clicks(tmp_path / "in.wav", 4.0, [0.5, 3.0]), "-c:a", codec, *(["-q:a", "9"] if codec != "aac" else []), tmp_path / name)
    whole = click_times(read_audio(tmp_path / name))
    part = click_times(read_audio(tmp_path / name, start_seconds=2.5, seconds=1.0))
    assert part == pytest.approx([whole[1] - 2.5], abs=0.001) and whole[1] == pytest.approx(3.0, abs=0.03)


def test_no_sound_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.mp4: no audio track"):
        read_audio(video(tmp_path / "a.mp4", 5))


def test_empty_sound_is_told(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(16_000)
    with pytest.raises(InputError, match=r"a\.wav: no sound can be decoded"):
        read_audio(tmp_path / "a.wav")


def test_a_start_after_the_end_is_told(tmp_path: Path) -> None:
    for name in ("a.wav", "a.m4a"):
        with pytest.raises(InputError, match=r"no sound at or after 7\.000 s"):
            read_audio(tone(tmp_path / name), start_seconds=7.0)


def test_a_torn_wav_gives_what_is_there(tmp_path: Path) -> None:
    whole = clicks(tmp_path / "a.wav", 1.0, [0.2], rate=16_000)
    (tmp_path / "b.wav").write_bytes(whole.read_bytes()[:20_001])
    assert len(read_audio(tmp_path / "b.wav")) == (20_001 - 44) // 2


def test_write_wav_is_read_by_everybody(tmp_path: Path) -> None:
    samples = np.arange(-500, 500, dtype=np.int16)
    write_wav(tmp_path / "a.wav", samples[::2], rate=8_000)  # a view, too
    with wave.open(str(tmp_path / "a.wav")) as f:
        assert (f.getnchannels(), f.getsampwidth(), f.getframerate()) == (1, 2, 8_000)
        assert np.array_equal(np.frombuffer(f.readframes(1000), "<i2"), samples[::2])
    assert probe(tmp_path / "a.wav").seconds == pytest.approx(0.06, abs=0.01)


PEAK = (
    "import sys, pathlib; from stages.media.audio import stream_audio\n"
    "n = sum(len(p) for p in stream_audio(pathlib.Path(sys.argv[1]), chunk_seconds=10))\n"
    "print(n, pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    peaks = []
    for seconds in (30, 1200):
        write_wav(tmp_path / "a.wav", np.zeros(16_000 * seconds, np.int16))
        done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "a.wav"], capture_output=True, text=True, check=True)
        samples, kilobytes = map(int, done.stdout.split())
        assert samples == 16_000 * seconds
        peaks.append(kilobytes)
    assert peaks[1] - peaks[0] < 5_000  # the sound is 38 MB
