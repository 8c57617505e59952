"""preprocess on made clips with a real face, the real tracker, and the ways in which videos go wrong."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stages import preprocess
from stages.artifacts import DigestCache, read_artifact
from stages.errors import InputError
from stages.media.sources import find_sources, read_annotations
from stages.media.video import VideoReader, VideoWriter
from stages.runtime import Reporter, Runtime

CONFIG = preprocess.Config(resolution=128)


class Listening(Reporter):
    def __init__(self):
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)

    warn = log


@pytest.fixture(scope="module")
def work(made_clips, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("preprocess") / "work"
    report = preprocess.run(CONFIG, [made_clips], root, Runtime())
    assert report.done == 2 and not report.failed
    return root


def test_a_clip_holds_what_its_docstring_says(work):
    for clip in read_artifact(work, "clips").clips.values():
        frames = clip.facts["frames"]
        assert frames == clip.facts["frames_total"] == 75 and clip.facts["fps"] == "25/1"
        assert clip.array("crops.npy").shape == (frames, 128, 128, 3) and clip.array("crops.npy").dtype == np.uint8
        assert clip.array("landmarks.npy").shape == (frames, 68, 2) and clip.array("align.npy").shape == (frames, 2, 3)
        assert clip.array("frames.npy").tolist() == list(range(frames)) and set(clip.array("segment.npy")) == {0}
        assert (clip.path / "speech.wav").stat().st_size == pytest.approx(3 * 32_000, rel=0.03)
        assert (clip.path / "sheet.jpg").stat().st_size > 5000
        assert len(clip.facts["people"]) == 1


def test_crops_are_aligned_to_the_template(work):
    from stages.faces import TEMPLATE, apply
    from stages.faces.align import anchors

    for clip in read_artifact(work, "clips").clips.values():
        placed = apply(np.array(clip.array("align.npy")), np.array(clip.array("landmarks.npy")))
        assert np.abs(anchors(placed).mean(0) - TEMPLATE).max() < 0.02


def test_one_person_is_one_identity_and_on_one_side_of_the_split(work):
    facts = read_artifact(work, "clips").manifest["facts"]
    assert len(set(facts["identity"].values())) == 1
    assert set(facts["split"].values()) == {"train"}


def test_the_same_command_again_does_nothing(work, made_clips):
    before = {p: p.stat().st_mtime_ns for p in work.rglob("*") if p.is_file() and p.name not in ("run.jsonl", ".lock", "artifact.json")}
    manifest = (work / "artifact.json").read_bytes()
    reporter = Listening()
    report = preprocess.run(CONFIG, [made_clips], work, Runtime(reporter=reporter))
    assert (report.done, report.skipped) == (0, 2) and all("up to date" in line for line in reporter.lines)
    assert manifest == (work / "artifact.json").read_bytes()
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if p.name != ".digests.json")


def test_two_workers_make_the_same_clips_as_one(work, made_clips, tmp_path):
    preprocess.run(CONFIG, [made_clips], tmp_path / "work", Runtime(workers=2))
    assert (tmp_path / "work" / "artifact.json").read_bytes() == (work / "artifact.json").read_bytes()


def test_shards_read_their_own_videos_only_and_merged_they_are_one_run(work, made_clips, tmp_path, monkeypatch):
    read = []
    real = DigestCache.digest
    monkeypatch.setattr(DigestCache, "digest", lambda self, path, name=None: (read.append(path), real(self, path, name))[1])
    sources = sorted(made_clips.glob("*.mp4"))
    for i in range(3):
        read.clear()
        report = preprocess.run(CONFIG, sources, tmp_path / "work", Runtime(shard=(i, 3)))
        assert report.done == len(set(read) & set(sources))
    preprocess.run(CONFIG, sources, tmp_path / "work", Runtime(merge=True))
    assert (tmp_path / "work" / "artifact.json").read_bytes() == (work / "artifact.json").read_bytes()


def test_a_clip_that_cannot_be_used_is_recorded_and_the_rest_go_on(made_clip, tmp_path):
    source = tmp_path / "videos"
    source.mkdir()
    (source / "good.mp4").symlink_to(made_clip)
    (source / "broken.mp4").write_text("this is no video")
    (source / "empty.mp4").touch()
    with VideoWriter(source / "silent.mp4", fps=Fraction(25), size=(64, 48)) as out:
        for _ in range(30):
            out.write(np.full((48, 64, 3), 90, np.uint8))
    report = preprocess.run(CONFIG, [source], tmp_path / "work", Runtime())
    assert report.done == 1 and len(report.failed) == 3 and report.exit_code == 4
    rows = {r["source"]: r for r in map(json.loads, (tmp_path / "work" / "failures.jsonl").read_text().splitlines())}
    assert "no audio track" in rows["silent.mp4"]["message"]
    assert "0 bytes" in rows["empty.mp4"]["message"] and "not a media file" in rows["broken.mp4"]["message"]
    again = preprocess.run(CONFIG, [source], tmp_path / "work", Runtime())
    assert (again.done, again.skipped, len(again.failed)) == (0, 1, 3)


def test_a_video_without_a_face_says_so(tmp_path):
    path = tmp_path / "nobody.mp4"
    with VideoWriter(path, fps=Fraction(25), size=(160, 120)) as out:
        for i in range(20):
            out.write(np.full((120, 160, 3), 100 + i, np.uint8))
    report = preprocess.run(preprocess.Config(allow_silent=True, resolution=128), [path], tmp_path / "work", Runtime())
    assert report.exit_code == 3 and "no face found" in next(iter(report.failed.values()))


def test_sound_that_ends_early_shortens_the_clip_and_is_told(made_clip, tmp_path):
    from stages.media.audio import read_audio, write_wav

    write_wav(tmp_path / "short.wav", read_audio(made_clip)[:16_000])
    with VideoWriter(tmp_path / "short.mp4", fps=Fraction(25), size=(320, 320), audio=tmp_path / "short.wav") as out:
        for frame in VideoReader(made_clip):
            out.write(frame)
    preprocess.run(CONFIG, [tmp_path / "short.mp4"], tmp_path / "work", Runtime())
    (clip,) = read_artifact(tmp_path / "work", "clips").clips.values()
    assert 24 <= clip.facts["frames"] <= 27 and clip.facts["frames_total"] == 50
    assert "the common part is kept" in clip.facts["warnings"][0]


def test_killed_and_rerun_redoes_only_what_is_missing(made_clips, tmp_path):
    root = tmp_path / "work"
    command = [sys.executable, "-m", "difftalk_cli", "preprocess", str(made_clips), "--out", str(root), "--resolution", "128"]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(root.glob("clips/*/clip.json")):
        pass
    process.kill()
    process.wait()
    made = {p.parent.name: p.stat().st_mtime_ns for p in root.glob("clips/*/clip.json")}
    assert len(made) == 1, "the kill came too late to test anything"
    reporter = Listening()
    report = preprocess.run(CONFIG, [made_clips], root, Runtime(reporter=reporter))
    assert (report.done, report.skipped) == (1, 1)
    assert {n: (root / "clips" / n / "clip.json").stat().st_mtime_ns for n in made} == made
    assert not list(root.glob(".tmp*"))


def test_folders_without_videos_and_missing_paths_are_named(tmp_path):
    with pytest.raises(InputError, match="no videos there"):
        find_sources([tmp_path])
    with pytest.raises(InputError, match="no such file or folder"):
        find_sources([tmp_path / "gone"])


def test_hdtf_annotations_cut_and_window_a_video(tmp_path):
    (tmp_path / "WDA_video_0.mp4").touch()
    (tmp_path / "other.mkv").touch()
    (tmp_path / "WDA_annotion_time.txt").write_text("\ufeffWDA_video_0.mp4 00:02-00:05 01:00-01:30 \n", encoding="utf-8")
    (tmp_path / "WDA_crop_wh.txt").write_text("WDA_video_0_1.mp4 10 200 20 200\n")
    sources = find_sources([tmp_path])
    assert [(s.stem, s.start, s.seconds, s.box) for s in sources] == [
        ("WDA_video_0_0", 2.0, 3.0, None), ("WDA_video_0_1", 60.0, 30.0, (10, 20, 200, 200)), ("other", 0.0, None, None),
    ]  # fmt: skip
    (tmp_path / "RD_annotion_time.txt").write_text("RD_x.mp4 5-9\n")
    with pytest.raises(InputError, match=r"line 1: expected"):
        read_annotations(tmp_path)


def test_an_annotated_part_is_the_part_of_the_whole(made_clip, work, tmp_path):
    folder = tmp_path / "hdtf"
    folder.mkdir()
    (folder / "RD_one.mp4").symlink_to(made_clip)
    (folder / "RD_annotion_time.txt").write_text("RD_one.mp4 00:01-00:02\n")
    preprocess.run(CONFIG, [folder], tmp_path / "work", Runtime())
    (clip,) = read_artifact(tmp_path / "work", "clips").clips.values()
    assert clip.id.startswith("RD_one_0-") and clip.facts["frames_total"] == 25
    whole = preprocess.run(CONFIG, [made_clip], tmp_path / "whole", Runtime())
    (full,) = read_artifact(whole.out, "clips").clips.values()
    part = np.array(clip.array("crops.npy")[5:20], int)
    assert np.abs(part - np.array(full.array("crops.npy")[30:45], int)).mean() < 6


def test_real_clips_of_every_rate_and_size(shared_clips, tmp_path):
    names = ["train/polimi-ispl__icpr2020dfdc__lynaeydofd.mp4", "train/rizkiarm__LipNet__bbaf2n.mpg"]
    report = preprocess.run(CONFIG, [shared_clips / names[1]], tmp_path / "work", Runtime())
    assert not report.failed
    (clip,) = read_artifact(tmp_path / "work", "clips").clips.values()
    assert clip.facts["frames"] >= 70 and clip.facts["lost"] == 0
