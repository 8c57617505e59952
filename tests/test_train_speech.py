from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stages import train_speech
from stages.artifacts import Input, Store, Unit, read_artifact
from stages.errors import InputError, UsageError
from stages.media.audio import write_wav
from stages.runtime import Reporter, Runtime
from stages.speech.encoder import open_encoder
from stages.speech.training import corpus, lips, transcribe
from stages.train_speech import Config, gather, plan_shards, read_recordings
from tests.speech.sounds import speech_like

SMALL = {
    "synthetic_hours": 0,
    "hold_out": 1,
    "dense": 12,
    "lstm": 8,
    "hidden": 6,
    "steps": 4,
    "batch": 2,
    "save_every": 2,
    "validate_every": 4,
}


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def work(tmp_path):
    """A clips artifact of three speaking people."""
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class ClipsConfig:
        resolution: int = 64

    root = tmp_path / "work"
    with Store(root, kind="clips", stage="preprocess", code=1, config=ClipsConfig(), runtime=Runtime()) as store:
        for i, id in enumerate(("ann-1", "bob-2", "cleo-3")):
            for unit in store.plan([Unit(id, (Input("video", "file", id),))]):
                with store.draft(unit) as draft:
                    seconds = 3.0 + 3 * i
                    frames = np.arange(int(25 * seconds))
                    points = np.random.default_rng(i).uniform(0, 256, (len(frames), 68, 2)).astype(np.float32)
                    np.save(draft.path / "frames.npy", frames.astype(np.int32))
                    np.save(draft.path / "landmarks.npy", points)
                    write_wav(draft.path / "speech.wav", speech_like(seconds, seed=i, noise=0.02))
                    draft.facts |= {"fps": "25/1", "frames_total": len(frames), "seconds_sound": seconds}
        store.seal()
    return root


@pytest.fixture
def teachers(monkeypatch, tmp_path):
    """In the place of Whisper: features that are the spectrum, and one word for everything."""

    def features(samples):
        rows = len(samples) // 320
        spectrum = np.abs(np.fft.rfft(samples[: rows * 320].reshape(rows, 320) / 32768))  # (R, 161)
        return spectrum[:, :128].repeat(3, 1).astype(np.float32)

    monkeypatch.setattr(lips, "STEPS", 2)
    monkeypatch.setattr(corpus, "_encoder", lambda path: SimpleNamespace(features=features))
    monkeypatch.setattr(transcribe, "Transcriber", lambda folder: lambda samples: ("Hello you.", -0.1))
    (tmp_path / "weights").mkdir()

    def locate(name, **_):
        (tmp_path / "weights" / name).touch()
        return tmp_path / "weights" / name

    monkeypatch.setattr(train_speech, "locate", locate)
    # the shards are built in this process, where the teacher above is
    monkeypatch.setattr(train_speech, "ProcessPoolExecutor", _Here)


class _Here:
    def __init__(self, workers: int):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, task, *arguments):
        from concurrent.futures import Future

        future: Future = Future()
        future.set_result(task(*arguments))
        return future


def run(work, tmp_path, **config):
    notes = Notes()
    report = train_speech.run(Config(**{**SMALL, **config}), work, tmp_path / "acoustic", Runtime(device="cpu", reporter=notes))
    return report, notes.lines


def test_one_command_makes_a_model_that_the_encoder_opens(work, teachers, tmp_path):
    report, lines = run(work, tmp_path)
    assert report.done == 1 and report.facts["finished"] and report.facts["steps"] == 4
    artifact = read_artifact(tmp_path / "acoustic", "acoustic")
    assert set(artifact.manifest["files"]) == {"model.safetensors", "config.json", "acoustic.onnx"}
    for output, width in (("logits", 29), ("hidden", 6)):
        rows = open_encoder("deepspeech", tmp_path / "acoustic" / "acoustic.onnx", Runtime(device="cpu"), output=output).encode(
            speech_like(1.0)
        )
        assert rows.shape == (50, width) and np.isfinite(rows).all()
    assert sum("people not fitted on" in line for line in lines) == lips.ROUNDS
    with np.load(tmp_path / "acoustic" / "lips.npz") as kept:
        assert np.isfinite(kept["lips"]).all()
    report, lines = run(work, tmp_path)
    assert report.skipped == 1 and any("up to date" in line for line in lines)


def test_an_interrupted_build_keeps_its_shards_and_a_longer_training_goes_on(work, teachers, tmp_path, monkeypatch):
    run(work, tmp_path)
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "acoustic" / "corpus").glob("*.npz")}
    assert {"held-clips.npz", "clips-0.npz", "clips-1.npz", "clips-2.npz"} == set(stamps)
    (tmp_path / "acoustic" / "corpus" / "clips-1.npz").unlink()
    report, lines = run(work, tmp_path, steps=8)
    assert not any("people not fitted on" in line for line in lines)  # kept
    assert report.facts["steps"] == 8 and any("going on from step-000000004" in line for line in lines)
    assert any("3 of 4 shards are there, 1 to build" in line for line in lines)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "acoustic" / "corpus").glob("*.npz")}
    assert after.keys() == stamps.keys() and all(after[k] == v for k, v in stamps.items() if k != "clips-1.npz")


def test_what_is_kept_for_testing_is_never_learned_from(work, tmp_path):
    found = gather(Config(hold_out=1, without="bob*"), read_artifact(work, "clips"))
    used = {s["speaker"]: s for s in found.clips}
    held = {s["speaker"]: s for s in found.clips_held}
    assert set(used) == {"ann-1", "cleo-3"} and set(held) == {"bob-2", "cleo-3"}
    assert "stop" not in used["ann-1"] and "start" not in held["bob-2"]
    assert used["cleo-3"]["stop"] == held["cleo-3"]["start"] == pytest.approx(6.0)


def test_a_list_of_recordings_is_read_with_its_texts(tmp_path, work):
    for name in "abc":
        write_wav(tmp_path / f"{name}.wav", speech_like(1.0))
    (tmp_path / "list.tsv").write_text("a.wav\tann\tHello there.\nb.wav\tbob\t-\ttest\nc.wav\tcleo\t?\n")
    a, b, c = read_recordings(tmp_path / "list.tsv")
    assert a == {"path": str(tmp_path / "a.wav"), "speaker": "ann", "test": False, "text": "Hello there."}
    assert b["text"] == "" and b["test"] and "text" not in c
    found = gather(Config(recordings=tmp_path / "list.tsv", hold_out=0), read_artifact(work, "clips"))
    assert found.prompts == [a] and found.prompts_held == [b] and c in found.clips
    names = [s.name for s in plan_shards(Config(synthetic_hours=0), found)]
    assert names == ["held-prompts", "clips-0", "clips-1", "clips-2", "prompts-0-0", "prompts-1-0", "prompts-2-0"]


@pytest.mark.parametrize(
    "text, says", [("", "the list is empty"), ("a.wav\tann\n", "line 1: expected path"), ("none.wav\tann\t-\n", "line 1: no file")]
)
def test_a_list_that_cannot_be_used_names_its_line(tmp_path, text, says):
    write_wav(tmp_path / "a.wav", speech_like(1.0))
    (tmp_path / "list.tsv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_recordings(tmp_path / "list.tsv")


def test_without_texts_for_the_synthesisers_it_says_where_to_get_them(tmp_path):
    with pytest.raises(InputError, match="package `fortunes`"):
        list(plan_shards(Config(texts=tmp_path / "none"), train_speech.Sources()))


def test_counts_must_be_counts():
    with pytest.raises(UsageError, match="--dense"):
        Config(dense=0)
    with pytest.raises(UsageError, match="--synthetic-hours"):
        Config(synthetic_hours=-1)


def test_the_model_card_and_the_model_that_ship_belong_together():
    from stages.artifacts import file_digest
    from stages.speech.encoder import BUNDLED

    card = (BUNDLED.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert file_digest(BUNDLED) in card and BUNDLED.stat().st_size < 15_000_000
