"""Files that go wrong, and files that only look as if they would, by name."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from stages.media import write_wav
from stages.shapes import SAMPLE_RATE
from tests.made import SPEECH, make_clip, make_frames
from tests.media.made import ffmpeg, video

SIZE = (160, 120)
SECOND = ["-t", "1"]


def gradient(frames: int) -> list[np.ndarray]:
    """Pictures without a face: (H, W, 3) u8, a slope that moves."""
    w, h = SIZE
    slope = np.add.outer(np.arange(h), np.arange(w)).astype(np.int64)
    return [np.repeat(((slope + 3 * i) % 256)[..., None], 3, axis=2).astype(np.uint8) for i in range(frames)]


def make_bad_inputs(root: Path) -> None:
    """Fill `root` with small broken or unsuited files."""
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("this is a shopping list\n" * 50, encoding="utf-8")
    (root / "text.wav").write_text("this is no sound\n" * 50, encoding="utf-8")
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture any more" * 9)
    (root / "a file").write_text("in the way", encoding="utf-8")
    for folder in ("no videos", "no artifact", "more videos", "folder.mp4"):
        (root / folder).mkdir()
    (root / "no videos" / "notes.txt").write_text("nothing here", encoding="utf-8")
    write_wav(root / "silence.wav", np.zeros(SAMPLE_RATE // 2, np.int16))
    write_wav(root / "blip.wav", np.full(SAMPLE_RATE // 200, 900, np.int16))
    write_wav(root / "no samples.wav", np.zeros(0, np.int16))
    video(
        root / "faceless.mp4",
        gradient(20),
        audio=SPEECH,
        audio_before=SECOND,
        options="-c:v libx264 -pix_fmt yuv420p -c:a aac".split(),
    )
    video(root / "silent.mp4", gradient(20))
    whole = (root / "faceless.mp4").read_bytes()
    (root / "truncated.mp4").write_bytes(whole[: len(whole) // 2])  # its index, the moov box, comes last
    ffmpeg("-i", SPEECH, "-t", "0.5", "-c:a", "aac", root / "sound only.mp4")
    (root / "more videos" / "other name.mp4").write_bytes(whole)


def make_odd_clips(root: Path) -> None:
    """A speaking face in shapes that trip programs up; fifteen frames each, one of them three, under a second of sound."""
    speech = np.zeros(SAMPLE_RATE, np.int16)
    frames = list(make_frames(speech, frames=15, size=256))
    plain = "-c:v libx264 -preset veryfast -pix_fmt yuv420p -c:a aac".split()
    square = (256, 256)
    video(root / "three frames.mp4", frames[:3], audio=SPEECH, audio_before=SECOND, options=plain, size=square)
    odd = [np.ascontiguousarray(f[:251, :253]) for f in frames]
    video(
        root / "odd.mp4",
        odd,
        audio=SPEECH,
        audio_before=SECOND,
        options=[*plain[:4], "-pix_fmt", "yuv444p", *plain[6:]],
        size=(253, 251),
    )
    video(root / "ntsc.mp4", frames, Fraction(30000, 1001), audio=SPEECH, audio_before=SECOND, options=plain, size=square)
    lying = [np.ascontiguousarray(np.rot90(f)) for f in frames]
    straight = video(root / "lying.mp4", lying, audio=SPEECH, audio_before=SECOND, options=plain, size=square)
    (root / "turned").mkdir()
    turned = root / "turned" / "rotated.mp4"
    ffmpeg("-display_rotation", "270", "-i", straight, "-c", "copy", turned)


def make_plain_clip(path: Path, seconds: float = 0.6) -> Path:
    """A face that speaks, as small and short as will do."""
    return make_clip(path, seconds=seconds, size=256)
