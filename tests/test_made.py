"""The made clip must be good enough to stand for a real one: tracked, moving with its sound, and in step with it."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stages.faces import FOUND, FaceConfig, FaceTrack, locate_face
from stages.media import VideoReader, audio_seconds, probe, read_audio, read_photo
from stages.runtime import Reporter
from tests.made import OTHER_SPEECH, SPEECH, make_frames, mouth_curves
from tests.sheet import make_sheet

FPS = Fraction(25)


@pytest.fixture(scope="module")
def track(made_clip: Path) -> FaceTrack:
    return locate_face(VideoReader(made_clip), float(FPS), FaceConfig(), Reporter())


def ratio(landmarks: np.ndarray, a: int, b: int) -> np.ndarray:
    """Distance of two landmarks over that of the eyes: (T,) for (T, 68, 2)."""
    eyes = np.linalg.norm(landmarks[:, 36:42].mean(1) - landmarks[:, 42:48].mean(1), axis=1)
    return np.linalg.norm(landmarks[:, a] - landmarks[:, b], axis=1) / eyes


def test_the_tracker_finds_one_person_in_every_frame(track: FaceTrack) -> None:
    assert len(track.status) == 50 and (track.status == FOUND).all()
    assert len(track.people) == 1
    assert track.people[0]["height"] > 320 / 4
    assert len(track.segments()) == 1  # the head's motion is no cut


def test_the_lips_open_and_spread_with_the_sound(track: FaceTrack, made_clip: Path) -> None:
    opening, width = mouth_curves(read_audio(made_clip), len(track.status), FPS)
    measured = ratio(track.landmarks, 62, 66)
    assert np.corrcoef(measured, opening)[0, 1] > 0.9
    assert np.corrcoef(ratio(track.landmarks, 48, 54), width)[0, 1] > 0.6
    closed, wide = np.quantile(measured, [0.05, 0.95])
    assert closed < 0.08 and wide > 0.2, (closed, wide)


def test_lips_and_sound_are_in_step(track: FaceTrack, made_clip: Path) -> None:
    opening, _ = mouth_curves(read_audio(made_clip), len(track.status), FPS)
    measured = ratio(track.landmarks, 62, 66)
    by_lag = {lag: np.corrcoef(measured[3 + lag : 47 + lag], opening[3:47])[0, 1] for lag in range(-3, 4)}
    assert max(by_lag, key=by_lag.__getitem__) == 0, by_lag


def test_the_head_moves_a_little(track: FaceTrack) -> None:
    nose = track.landmarks[:, 30]
    travel = np.ptp(nose, axis=0).max()
    assert 1 < travel < 320 / 10


def test_sound_and_picture_are_equally_long(made_clip: Path) -> None:
    media = probe(made_clip)
    assert media.video is not None and media.audio is not None
    assert media.video.fps == FPS and (media.video.width, media.video.height) == (320, 320)
    assert audio_seconds(made_clip) == pytest.approx(2.0, abs=0.05)
    assert np.abs(read_audio(made_clip).astype(int)).max() > 3000


def test_the_second_clip_looks_like_another_one() -> None:
    speech = read_audio(SPEECH)
    plain, other = (next(make_frames(speech, frames=1, size=64, variant=v)).astype(int) for v in ("plain", "other"))
    assert np.abs(plain - other).mean() > 20
    assert np.abs(plain[:, ::-1] - other).mean() > 4  # not the mirror image alone


def test_silence_keeps_the_mouth_closed_and_frames_repeat_exactly() -> None:
    opening, width = mouth_curves(np.zeros(16000, np.int16), 25, FPS)
    assert not opening.any() and not width.any()
    speech = read_audio(SPEECH)
    first, again = (list(make_frames(speech, frames=3, size=64)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("path", [SPEECH, OTHER_SPEECH], ids=lambda p: p.stem)
def test_recordings_are_small_and_hold_speech(path: Path) -> None:
    samples = read_audio(path)
    assert path.stat().st_size < 300_000
    assert 4 < len(samples) / 16000 < 8 and np.abs(samples.astype(int)).max() > 8000


def test_a_sheet_shows_each_video_in_a_row(made_clip: Path, tmp_path: Path) -> None:
    sheet = read_photo(make_sheet(tmp_path / "sheet.png", [made_clip, made_clip], columns=3, side=40))
    assert sheet.shape == (80, 120, 3)
    assert np.array_equal(sheet[:40], sheet[40:]) and sheet.std() > 20
    assert not np.array_equal(sheet[:, :40], sheet[:, 40:80])  # another moment
