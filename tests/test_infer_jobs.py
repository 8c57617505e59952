"""infer as people use it: stopped and gone on with, many jobs, lanes, previews, faces that turn away, marks."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stages import detect, infer
from stages.errors import InputError, UsageError
from stages.media.audio import read_audio, write_wav
from stages.media.feed import pingpong
from stages.media.video import VideoReader, VideoWriter
from stages.runtime import Reporter, Runtime
from tests.small import make_model

CONFIG = infer.Config(steps=1, lossless=True, max_turn=1.0)


class Notes(Reporter):
    def __init__(self):
        self.lines = []

    def log(self, message):
        self.lines.append(message)

    warn = log


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("jobs") / "model")


@pytest.fixture(scope="module")
def speech(made_clip, tmp_path_factory) -> Path:
    """1.6 seconds of the made clip's sound: 40 frames."""
    path = tmp_path_factory.mktemp("jobs-sound") / "speech.wav"
    write_wav(path, read_audio(made_clip)[:25_600])
    return path


@pytest.fixture
def short_segments(monkeypatch):
    monkeypatch.setattr("stages.dubbing.plan.SEGMENT_SECONDS", (0.3, 0.5))


def frames(path: Path) -> np.ndarray:
    return np.stack(list(VideoReader(path)))


def test_the_same_command_again_does_nothing_and_a_changed_one_says_why(made_clip, speech, model, tmp_path):
    notes, out = Notes(), tmp_path / "out.mp4"
    runtime = Runtime(reporter=notes)
    assert infer.run(CONFIG, infer.Inputs(speech, made_clip, model), out, runtime).done == 1
    assert infer.run(infer.Config(**{**vars(CONFIG), "batch": 3}), infer.Inputs(speech, made_clip, model), out, runtime).skipped == 1
    assert any("up to date" in line for line in notes.lines)
    assert infer.run(infer.Config(**{**vars(CONFIG), "seed": 4}), infer.Inputs(speech, made_clip, model), out, runtime).done == 1
    assert any("seed: 0 -> 4" in line for line in notes.lines)
    assert any("track known" in line for line in notes.lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "out.mp4"]
    out.write_bytes(out.read_bytes()[:-10])
    assert infer.run(infer.Config(**{**vars(CONFIG), "seed": 4}), infer.Inputs(speech, made_clip, model), out, runtime).done == 1
    assert any("damaged" in line for line in notes.lines)


def test_a_run_that_was_killed_goes_on_and_gives_the_very_same_video(made_clip, speech, model, tmp_path, short_segments):
    whole, out = tmp_path / "whole.mp4", tmp_path / "k'illed.mp4"
    infer.run(CONFIG, infer.Inputs(speech, made_clip, model), whole, Runtime())
    code = (
        "import sys\nfrom pathlib import Path\nfrom stages import infer\nfrom stages.dubbing import plan\n"
        "from stages.runtime import Runtime\n"
        "from tests.test_infer_jobs import CONFIG\nplan.SEGMENT_SECONDS = (0.3, 0.5)\n"
        "a, r, m, o = map(Path, sys.argv[1:])\ninfer.run(CONFIG, infer.Inputs(a, r, m), o, Runtime())"
    )
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, (speech, made_clip, model, out))], cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".*.parts/part-*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = list(tmp_path.glob(".*.parts/part-*.json"))
    assert kept and not out.exists()
    notes = Notes()
    infer.run(CONFIG, infer.Inputs(speech, made_clip, model), out, Runtime(reporter=notes))
    assert any("going on" in line for line in notes.lines)
    assert np.array_equal(frames(whole), frames(out)) and not list(tmp_path.glob(".*"))


def test_parts_of_another_job_are_not_used(made_clip, speech, model, tmp_path):
    from stages.dubbing.parts import Parts

    key = {"stage": "infer", "code": 1, "config": {"seed": 9}, "inputs": [], "weights": []}
    with Parts(tmp_path / "out.mp4", key) as parts, parts.make(0) as (path, told):
        path.write_bytes(b"something else")
        told["covered"] = []
    notes = Notes()
    infer.run(CONFIG, infer.Inputs(speech, made_clip, model), tmp_path / "out.mp4", Runtime(reporter=notes))
    assert any("of no use" in line and "seed: 9 -> 0" in line for line in notes.lines)
    assert len(frames(tmp_path / "out.mp4")) == 40


def test_lanes_and_batches_change_no_frame_of_a_progressive_video(made_clip, speech, model, tmp_path, short_segments):
    def made(name, **settings):
        config = infer.Config(**{**vars(CONFIG), "reference": "progressive", "steps": 2, **settings})
        infer.run(config, infer.Inputs(speech, made_clip, model), tmp_path / name, Runtime())
        return frames(tmp_path / name).astype(int)

    one = made("a.mkv", lanes=1, batch=1)
    many = made("b.mkv", lanes=3, batch=5)
    assert np.abs(one - many).max() <= 2 and (one == many).mean() > 0.99  # a batch may round otherwise


def test_frames_that_follow_each_other_stay_the_person_with_the_model_that_ships(made_clip, speech, tmp_path):
    """Shown its own drawing again and again, it had turned mouths red and blue within a second, and they kept still."""
    shown = {}
    for kind in ("matched", "progressive"):
        config = infer.Config(lossless=True, watermark=False, reference=kind)
        infer.run(config, infer.Inputs(speech, made_clip), tmp_path / f"{kind}.mkv", Runtime())
        shown[kind] = frames(tmp_path / f"{kind}.mkv").astype(float)
    apart = np.abs(shown["matched"] - shown["progressive"]).mean((1, 2, 3))
    assert 0.02 < apart[-10:].mean() < 0.4  # it had been 1.3: the mouth is a small part of the frame


@pytest.mark.parametrize("noise", ["fixed", "shared", "free"])
def test_noise_is_a_function_of_seed_and_frame(made_clip, speech, model, tmp_path, noise):
    config = infer.Config(**{**vars(CONFIG), "noise": noise})
    for name, batch in (("a.mp4", 2), ("b.mp4", 7)):
        infer.run(infer.Config(**{**vars(config), "batch": batch}), infer.Inputs(speech, made_clip, model), tmp_path / name, Runtime())
    assert np.abs(frames(tmp_path / "a.mp4").astype(int) - frames(tmp_path / "b.mp4")).max() <= 2


def test_a_list_of_jobs_goes_on_after_a_bad_one_and_skips_the_done(made_clip, speech, model, tmp_path):
    table = tmp_path / "jobs.tsv"
    rows = [("audio", "ref", "out", "seed"), (speech, made_clip, "one.mp4", ""), (speech, "nobody.mp4", "two.mp4", ""),
            (speech, made_clip, "three.mp4", "7")]  # fmt: skip
    table.write_text("".join("\t".join(map(str, r)) + "\n" for r in rows))
    report = infer.run_list(CONFIG, table, model, Runtime())
    assert report.done == 2 and list(report.failed) == [str(tmp_path / "two.mp4")] and report.exit_code == 4
    assert json.loads((tmp_path / "three.json").read_text())["settings"]["seed"] == 7
    again = infer.run_list(CONFIG, table, model, Runtime())
    assert again.skipped == 2 and again.done == 0


def test_shards_of_a_table_share_its_jobs_out(model, tmp_path):
    rows = [("audio", "ref", "out"), *(("nowhere.wav", "nobody.mp4", f"{i}.mp4") for i in range(8))]
    (tmp_path / "jobs.tsv").write_text("".join("\t".join(r) + "\n" for r in rows))
    tried = [list(infer.run_list(CONFIG, tmp_path / "jobs.tsv", model, Runtime(shard=(i, 2))).failed) for i in range(2)]
    assert sorted(tried[0] + tried[1]) == [str(tmp_path / f"{i}.mp4") for i in range(8)]


def test_two_workers_make_the_videos_of_one(made_clip, speech, model, tmp_path):
    rows = [("audio", "ref", "out"), (speech, made_clip, "one.mp4"), (speech, "nobody.mp4", "two.mp4")]
    (tmp_path / "jobs.tsv").write_text("".join("\t".join(map(str, r)) + "\n" for r in rows))
    notes = Notes()
    report = infer.run_list(CONFIG, tmp_path / "jobs.tsv", model, Runtime(workers=2, threads=1, reporter=notes))
    assert report.done == 1 and "no such file" in report.failed[str(tmp_path / "two.mp4")]
    assert any(line.startswith(f"{tmp_path / 'one.mp4'}: ") for line in notes.lines), "what a worker has to say is told"
    infer.run(CONFIG, infer.Inputs(speech, made_clip, model), tmp_path / "alone.mp4", Runtime(threads=1))
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "alone.mp4").read_bytes()


@pytest.mark.parametrize("text, told", [
    ("audio\tref\n", "no jobs"), ("audio\tref\tout\na\tb\n", "line 2"), ("audio\tref\tout\tcolour\na\tb\tc\td\n", "unknown column colour"),
    ("audio\tref\tout\tseed\na\tb\tc\tx\n", "seed cannot be 'x'"), ("audio\tref\tout\na\tb\tc\na\tb\tc\n", "earlier line"),
])  # fmt: skip
def test_lists_that_cannot_be_read_say_where(tmp_path, text, told):
    (tmp_path / "jobs.tsv").write_text(text)
    with pytest.raises((InputError, UsageError), match=told):
        infer.read_list(tmp_path / "jobs.tsv", CONFIG)


def test_a_preview_is_one_picture_side_by_side(made_clip, speech, model, tmp_path):
    from PIL import Image

    report = infer.run(CONFIG, infer.Inputs(speech, made_clip, model), tmp_path / "p.mp4", Runtime(), preview=True)
    picture = np.array(Image.open(tmp_path / "p.png"))
    assert report.out == tmp_path / "p.png" and picture.shape == (320, 640, 3)
    assert np.array_equal(picture[:40, :320], picture[:40, 320:]) and not np.array_equal(picture[:, :320], picture[:, 320:])
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_a_part_of_the_reference_is_used(made_clip, speech, model, tmp_path):
    config = infer.Config(**{**vars(CONFIG), "start": 0.4, "end": 1.0})
    report = infer.run(config, infer.Inputs(speech, made_clip, model), tmp_path / "out.mp4", Runtime())
    assert report.facts["reference_frames"] == 15
    source, made = frames(made_clip), frames(tmp_path / "out.mp4")
    for i, k in enumerate(pingpong(15, len(made))):
        assert np.array_equal(made[i, :40], source[10 + k, :40])
    with pytest.raises(UsageError, match="after --start"):
        infer.Config(start=2, end=1)


def test_a_preprocessed_clip_is_a_reference(made_clip, speech, model, tmp_path):
    from stages import preprocess

    preprocess.run(preprocess.Config(), [made_clip], tmp_path / "work", Runtime())
    clip = next((tmp_path / "work" / "clips").iterdir())
    report = infer.run(CONFIG, infer.Inputs(speech, clip, model), tmp_path / "out.mp4", Runtime())
    crops, made = np.load(clip / "crops.npy"), frames(tmp_path / "out.mp4")
    assert report.facts["size"] == [256, 256] and np.array_equal(made[3, :100], crops[3, :100])
    assert not np.array_equal(made[3], crops[3])


def test_frames_that_look_away_pass_through_with_a_soft_change(made_clip, speech, model, tmp_path, monkeypatch):
    import stages.dubbing.reference as reference

    real = reference.turn
    monkeypatch.setattr(reference, "turn", lambda points: np.where(np.arange(len(points)) >= 12, 0.45, 0.0) + 0 * real(points))
    config = infer.Config(**{**vars(CONFIG), "max_turn": 0.4, "watermark": False})
    report = infer.run(config, infer.Inputs(speech, made_clip, model), tmp_path / "out.mp4", Runtime())
    assert report.facts["frames_turned"][0][0] == 12 and report.facts["frames_passed_through"][0][0] == 12
    made, source = frames(tmp_path / "out.mp4"), frames(made_clip)
    changed = [int((made[i] != source[i]).sum()) for i in range(14)]
    assert changed[12] == changed[13] == 0 < changed[11] and np.abs(made[11].astype(int) - source[11]).sum() < np.abs(
        made[5].astype(int) - source[5]
    ).sum()


def test_the_mark_is_found_in_what_was_made_and_nowhere_else(made_clip, speech, tmp_path):
    model = make_model(tmp_path / "still", still=True)
    config = infer.Config(steps=1, max_turn=1.0)
    infer.run(config, infer.Inputs(speech, made_clip, model), tmp_path / "marked.mp4", Runtime())
    notes = Notes()
    plain = infer.Config(steps=1, max_turn=1.0, watermark=False)
    infer.run(plain, infer.Inputs(speech, made_clip, model), tmp_path / "plain.mp4", Runtime(reporter=notes))
    assert any("synthetic" in line for line in notes.lines)
    found = {name: detect.run(detect.Config(), tmp_path / f"{name}.mp4", Runtime()).facts for name in ("marked", "plain")}
    assert found["marked"]["watermark"]["found"] and found["marked"]["watermark"]["score"] > 6
    assert not found["plain"]["watermark"]["found"] and found["plain"]["metadata"]["found"] and found["plain"]["synthetic"]
    clean = detect.run(detect.Config(), made_clip, Runtime()).facts
    assert not clean["synthetic"] and not clean["metadata"]["found"] and clean["watermark"]["score"] < 4


def test_detect_says_what_it_cannot_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="a.mp4"):
        detect.run(detect.Config(), tmp_path / "a.mp4", Runtime())
    with VideoWriter(tmp_path / "b.mp4", fps=Fraction(25), size=(160, 120)) as out:
        for _ in range(5):
            out.write(np.full((120, 160, 3), 99, np.uint8))
    facts = detect.run(detect.Config(), tmp_path / "b.mp4", Runtime()).facts
    assert facts["watermark"]["score"] is None and not facts["synthetic"]
