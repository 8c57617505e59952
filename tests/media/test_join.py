"""Parts become one video: every frame at its moment, at every rate, with sound in its place, and nothing encoded again."""

from fractions import Fraction

import numpy as np
import pytest

from stages.errors import InputError
from stages.media import ffmpeg
from stages.media.audio import read_audio, write_wav
from stages.media.join import join, timescale
from stages.media.probe import probe
from stages.media.video import VideoReader, VideoWriter


def moving(number: int) -> np.ndarray:
    """Something that an encoder predicts both ways: a bar that moves, over a number in brightness."""
    frame = np.full((48, 96, 3), 16 + 2 * (number % 100), np.uint8)
    frame[:, (3 * number) % 90 : (3 * number) % 90 + 6] = 250
    return frame


@pytest.mark.parametrize("rate", ["24000/1001", "24", "25", "30000/1001", "30", "50", "60"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_keep_their_moments_over_many_parts(tmp_path, rate, suffix):
    fps, lengths, number = Fraction(rate), [13, 1, 40, 2, 31, 17, 50], 0
    parts = []
    for i, length in enumerate(lengths):
        parts.append(tmp_path / f"it's {i}.mp4")
        with VideoWriter(parts[-1], fps=fps, size=(96, 48), lossless=True) as out:
            for _ in range(length):
                out.write(moving(number))
                number += 1
    sound = tmp_path / "sound.wav"
    write_wav(sound, np.zeros(int(number / fps * 16_000), np.int16))
    join(parts, tmp_path / f"out{suffix}", fps=fps, audio=sound, metadata={"comment": "made"})
    info = probe(tmp_path / f"out{suffix}")
    assert info.video.fps == fps and (suffix == ".mkv" or not info.video.variable)
    frames = list(VideoReader(tmp_path / f"out{suffix}"))
    assert len(frames) == sum(lengths) and all(np.array_equal(f, moving(i)) for i, f in enumerate(frames))
    listed, _, _ = ffmpeg.run(["-v", "error", "-i", str(tmp_path / f"out{suffix}"), "-map", "0:v", "-c", "copy", "-f", "framecrc", "-"])
    base = Fraction(next(line for line in listed.decode().splitlines() if line.startswith("#tb")).split(":")[1].strip())
    rows = [line.split(",") for line in listed.decode().splitlines() if not line.startswith("#")]
    shown = sorted(int(r[2]) * base for r in rows)
    slack = Fraction(0) if suffix == ".mp4" else Fraction(1, 1000)  # Matroska counts in milliseconds
    assert all(abs(t - shown[0] - i / fps) <= slack for i, t in enumerate(shown))


def test_a_click_and_a_flash_stay_together_over_the_seams(tmp_path):
    fps, parts = Fraction(30000, 1001), []
    for i in range(4):
        parts.append(tmp_path / f"{i}.mp4")
        with VideoWriter(parts[-1], fps=fps, size=(96, 48)) as out:
            for k in range(60):
                out.write(np.full((48, 96, 3), 255 if (i, k) == (3, 30) else 20, np.uint8))
    at = 210 / fps
    sound = np.zeros(int(240 / fps * 16_000), np.int16)
    sound[int(at * 16_000) : int(at * 16_000) + 80] = 20_000
    write_wav(tmp_path / "click.wav", sound)
    join(parts, tmp_path / "out.mp4", fps=fps, audio=tmp_path / "click.wav")
    flash = int(np.argmax([f.mean() for f in VideoReader(tmp_path / "out.mp4")]))
    click = int(np.argmax(np.abs(read_audio(tmp_path / "out.mp4")))) / 16_000
    assert flash == 210 and abs(click - float(at)) < float(1 / fps)


def test_a_part_that_is_no_video_is_an_error(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    with pytest.raises(InputError, match="out.mp4"):
        join([tmp_path / "a.mp4"], tmp_path / "out.mp4", fps=Fraction(25))


def test_every_frame_is_a_whole_number_of_ticks():
    for rate in ("24000/1001", "25", "15", "60", "30000/1001"):
        assert timescale(Fraction(rate)) % Fraction(rate).numerator == 0 and timescale(Fraction(rate)) >= 10_000
