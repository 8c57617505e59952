from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from stages.errors import InputError
from stages.media.audio import write_wav
from stages.shapes import SAMPLE_RATE
from stages.speech.mfcc import mfcc_rows
from stages.speech.training import corpus
from stages.speech.training.corpus import LIPS, Shard, build, cut, lip_shapes, mouth
from tests.speech.sounds import speech_like


@pytest.fixture(autouse=True)
def teacher(monkeypatch):
    """A teacher of 384 features that are the row's number, so that alignment shows."""

    def features(samples):
        return np.repeat(np.arange(max(1, round(len(samples) / 320)), dtype=np.float32)[:, None], 384, 1)

    monkeypatch.setattr(corpus, "_encoder", lambda path: SimpleNamespace(features=features))


def make_clip(folder, seconds: float, fps: int = 25):
    """What the corpus reads of a clip: its mouth opens once a second."""
    folder.mkdir(parents=True)
    frames = np.arange(int(seconds * fps))
    points = np.tile(np.linspace(60, 180, 68)[None, :, None], (len(frames), 1, 2)).astype(np.float32)
    points[:, [65, 66, 67], 1] += 10 * (1 + np.sin(2 * np.pi * frames / fps))[:, None].astype(np.float32)
    np.save(folder / "landmarks.npy", points)
    np.save(folder / "frames.npy", frames)
    (folder / "clip.json").write_text(json.dumps({"facts": {"fps": f"{fps}/1"}}))
    write_wav(folder / "speech.wav", speech_like(seconds))
    return folder


def source(clip, **more):
    return {"path": str(clip / "speech.wav"), "speaker": clip.name, "lips": str(clip), **more}


def test_a_long_recording_is_cut_at_its_pauses_and_nothing_is_lost():
    x = speech_like(33.0, noise=0.05)
    pause = int(7.3 * SAMPLE_RATE)
    x[pause - 3000 : pause + 3000] = 0
    pieces = cut(x)
    assert pieces[0][0] == 0 and pieces[-1][1] == len(x)
    assert all(a[1] == b[0] for a, b in zip(pieces, pieces[1:], strict=False))
    assert all(5 * SAMPLE_RATE <= b - a <= 10 * SAMPLE_RATE for a, b in pieces[:-1])
    assert abs(pieces[0][1] - pause) < 3000
    assert cut(np.zeros(100, np.int16)) == []


def test_a_shard_holds_rows_letters_teacher_and_lips_of_the_same_times(tmp_path):
    clip = make_clip(tmp_path / "ann", 4.0)
    text = [[0.0, 4.0, "Hello there."]]
    path = build(Shard("clips-0", "recorded", 1, versions=3, sources=[source(clip, transcripts=text)]), tmp_path, tmp_path)
    with np.load(path) as data:
        (line,) = json.loads(data["utterances"].tobytes())
        assert line["text"] == "hello there" and line["speaker"] == "ann"
        x = mfcc_rows(speech_like(4.0))
        assert np.allclose(data["mfcc0"], x, atol=1e-3)
        assert data["mfcc1"].shape == data["mfcc2"].shape == x.shape and not np.allclose(data["mfcc1"], x, atol=1)
        assert data["teacher"].shape == (len(x), 384) and data["teacher"][-1, 0] >= len(x) - 2
        assert data["lips"].shape == (len(x), len(LIPS))
        times = np.arange(len(x)) / 50
        assert np.corrcoef(data["lips"][:, 0], np.sin(2 * np.pi * times))[0, 1] > 0.99
    before = path.stat().st_mtime_ns
    assert build(Shard("clips-0", "recorded", 1, versions=3, sources=[source(clip)]), tmp_path, tmp_path) == path
    assert path.stat().st_mtime_ns == before


def test_lips_follow_speech_that_is_played_faster(tmp_path):
    clip = make_clip(tmp_path / "ann", 6.0)
    path = build(Shard("clips-1", "recorded", 1, versions=1, speed=1.25, sources=[source(clip)]), tmp_path, tmp_path)
    with np.load(path) as data:
        rows = len(data["mfcc0"])
        assert abs(rows - 6.0 / 1.25 * 50) <= 2
        times = np.arange(rows) / 50 * 1.25
        assert np.corrcoef(data["lips"][:, 0], np.sin(2 * np.pi * times))[0, 1] > 0.98


def test_only_the_part_that_is_asked_for_is_heard(tmp_path):
    clip = make_clip(tmp_path / "ann", 9.0)
    kept = build(Shard("held-clips", "recorded", 1, versions=1, sources=[source(clip, start=6.0)]), tmp_path, tmp_path)
    used = build(Shard("clips-0", "recorded", 1, versions=1, sources=[source(clip, stop=6.0)]), tmp_path, tmp_path)
    with np.load(kept) as a, np.load(used) as b:
        whole = mfcc_rows(speech_like(9.0))
        assert np.allclose(b["mfcc0"][:290], whole[:290], atol=1e-3)
        assert np.allclose(a["mfcc0"][5:140], whole[305:440], atol=1e-3)
        times = 6 + np.arange(len(a["lips"])) / 50
        assert np.corrcoef(a["lips"][:, 0], np.sin(2 * np.pi * times))[0, 1] > 0.99


def test_a_transcript_of_too_many_letters_belongs_to_other_sound(tmp_path):
    clip = make_clip(tmp_path / "ann", 2.0)
    text = [[0.0, 2.0, "word " * 40]]
    path = build(Shard("clips-0", "recorded", 1, versions=1, sources=[source(clip, transcripts=text)]), tmp_path, tmp_path)
    with np.load(path) as data:
        assert json.loads(data["utterances"].tobytes())[0]["text"] == ""


def test_files_that_cannot_be_read_are_left_out_and_no_file_at_all_is_an_error(tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    bad = {"path": str(tmp_path / "bad.wav"), "speaker": "x"}
    clip = make_clip(tmp_path / "ann", 2.0)
    build(Shard("clips-0", "recorded", 1, versions=1, sources=[bad, source(clip)]), tmp_path, tmp_path)
    with pytest.raises(InputError, match="no usable speech in 1 files"):
        build(Shard("clips-1", "recorded", 1, versions=1, sources=[bad]), tmp_path, tmp_path)


def test_frames_without_a_face_have_no_lips(tmp_path):
    clip = make_clip(tmp_path / "ann", 4.0)
    keep = np.r_[0:30, 70:100]
    np.save(clip / "landmarks.npy", np.load(clip / "landmarks.npy")[keep])
    np.save(clip / "frames.npy", keep)
    shape = lip_shapes(clip, 4 * SAMPLE_RATE)
    assert np.isnan(shape[70:130]).all() and not np.isnan(shape[:55]).any() and not np.isnan(shape[145:199]).any()


def test_a_mouth_that_opens_changes_its_opening_only_inside():
    points = np.tile(np.linspace(0, 200, 68)[None, :, None], (2, 1, 2)).astype(np.float32)
    points[1, [65, 66, 67], 1] += 5
    change = mouth(points)[1] - mouth(points)[0]
    assert change[0] != 0 and np.allclose(change[[1, 2, 3, 4]], 0) and change[5] == 5
