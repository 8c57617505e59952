from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stages import extract_audio
from stages.artifacts import Input, Store, Unit, read_artifact
from stages.errors import ArtifactError, InputError, UsageError
from stages.extract_audio import Config
from stages.media.audio import write_wav
from stages.runtime import Report, Reporter, Runtime
from stages.speech.mel import log_mel
from stages.speech.windows import frame_windows, neighbours
from tests.speech.sounds import click, speech_like


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(f"warning: {message}")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A clip of the made artifact."""

    sound: np.ndarray | None = field(default_factory=lambda: speech_like(2.0, noise=0.01))
    fps: str = "25/1"
    total: int = 50
    frames: list[int] | None = None


@dataclass(frozen=True, kw_only=True)
class ClipsConfig:
    resolution: int = 64


def make_clips(root: Path, clips: dict[str, Made]) -> Path:
    """A clips artifact with what extract-audio reads, written as preprocess writes it."""
    with Store(root, kind="clips", stage="preprocess", code=1, config=ClipsConfig(), runtime=Runtime()) as store:
        units = [Unit(id, (Input("video", "file", f"{id}-{hash_of(made)}"),), made) for id, made in clips.items()]
        for unit in store.plan(units):
            made = unit.payload
            with store.draft(unit) as draft:
                frames = np.arange(made.total) if made.frames is None else np.array(made.frames)
                np.save(draft.path / "frames.npy", frames.astype(np.int32))
                if made.sound is not None:
                    write_wav(draft.path / "speech.wav", made.sound)
                draft.facts |= {"fps": made.fps, "frames_total": made.total}
        assert not store.report.failed
        store.seal()
    return root


def hash_of(made: Made) -> int:
    return 0 if made.sound is None else int(np.abs(made.sound.astype(np.int64)).sum())


def extract(root: Path, config: Config | None = None, **options) -> tuple[Report, list[str]]:
    notes = Notes()
    runtime = Runtime(**{"device": "cpu", "reporter": notes, **options})
    return extract_audio.run(config or Config(encoder="mel"), root, None, runtime), notes.lines


@pytest.fixture
def two_clips(tmp_path) -> Path:
    return make_clips(tmp_path / "work", {"ann-1": Made(), "bob-2": Made(sound=speech_like(1.0, seed=3), total=25)})


def test_features_lie_beside_the_clips_and_match_their_crops(tmp_path):
    sound = speech_like(2.0, noise=0.01)
    root = make_clips(tmp_path / "work", {"ann-1": Made(sound=sound, frames=[3, 4, 5, 20, 49])})
    report, _ = extract(root)
    assert report.out == root / "features" and (report.done, report.failed) == (1, {})
    clip = read_artifact(root / "features", "features").clips["ann-1"]
    assert clip.path == root / "features" / "ann-1"
    audio, near = clip.array("audio.npy"), clip.array("neighbours.npy")
    assert audio.dtype == np.float32 and near.dtype == np.int32
    assert np.array_equal(audio, frame_windows(log_mel(sound), 50, 25)[[3, 4, 5, 20, 49]])
    assert near[1].tolist() == [-1, -1, -1, 0, 1, 2, -1, -1]
    assert near[4].tolist() == [-1, -1, -1, -1, 4, -1, -1, -1]
    assert clip.facts == {"encoder": "mel", "rows": 100, "features": 80, "frames": 5, "seconds": 2.0}


def test_the_artifact_tells_what_its_windows_hold(two_clips):
    extract(two_clips)
    facts = read_artifact(two_clips / "features", "features").manifest["facts"]
    assert facts == {"encoder": "mel", "features": 80, "rows_hz": 50, "window": 16}


@pytest.mark.parametrize("fps", ["24000/1001", "25/1", "30000/1001", "30/1", "60/1"])
def test_a_click_is_heard_in_the_middle_of_its_own_frame(tmp_path, fps):
    rate = Fraction(fps)
    hits = {f"at-{i}": i for i in (int(7 * rate), int(3.3 * rate), int(rate))}
    total = int(10 * rate)
    stored = [i for i in range(total) if i % 11 != 5 or i in hits.values()]  # some frames were lost
    clips = {id: Made(sound=click(10.0, float(i / rate)), fps=fps, total=total, frames=stored) for id, i in hits.items()}
    root = make_clips(tmp_path / "work", clips)
    report, _ = extract(root)
    assert report.done == 3
    for id, i in hits.items():
        loudness = np.load(root / "features" / id / "audio.npy").mean(axis=2)  # (T, 16)
        k = stored.index(i)
        assert loudness[k].argmax() == 8 and loudness[:, 8].argmax() == k
        # silence is -1; where a window leaves the sound it is 0 or fades to it, so look 0.4 s inside only
        near = np.abs(np.array(stored) - i) < 0.4 * float(rate)
        heard = np.flatnonzero(near & (loudness > -0.99).any(axis=1))
        seconds = (np.array(stored)[heard] - i) / float(rate)
        # The window of a frame reaches 160 ms back and 140 ms ahead (a row more by its own width), so the click is heard
        # from the frames that are up to 140 ms early to those up to 160 ms late.
        assert -0.18 <= seconds.min() <= -0.08 and 0.10 <= seconds.max() <= 0.20


def test_neighbours_of_a_whole_clip_are_the_filters_own(tmp_path):
    root = make_clips(tmp_path / "work", {"a": Made(fps="30000/1001", total=59)})
    extract(root)
    assert np.array_equal(np.load(root / "features" / "a" / "neighbours.npy"), neighbours(59, Fraction(30000, 1001)))


# -- resume


def test_second_run_skips_everything(two_clips):
    extract(two_clips)
    before = (two_clips / "features" / "artifact.json").read_bytes()
    report, lines = extract(two_clips)
    assert (report.done, report.skipped) == (0, 2)
    assert "skip ann-1: up to date" in lines and "skip bob-2: up to date" in lines
    assert (two_clips / "features" / "artifact.json").read_bytes() == before


def test_a_lost_file_redoes_its_clip_only(two_clips):
    extract(two_clips)
    (two_clips / "features" / "bob-2" / "audio.npy").unlink()
    report, lines = extract(two_clips)
    assert (report.done, report.skipped) == (1, 1)
    assert "make bob-2: damaged (audio.npy is gone)" in lines


def test_a_clip_that_changed_upstream_is_redone_with_its_reason(two_clips):
    extract(two_clips)
    make_clips(two_clips, {"ann-1": Made(sound=speech_like(2.0, seed=9)), "bob-2": Made(sound=speech_like(1.0, seed=3), total=25)})
    report, lines = extract(two_clips)
    assert (report.done, report.skipped) == (1, 1)
    assert "make ann-1: input (clip)" in lines


def test_another_encoder_redoes_all_with_its_reason(two_clips, tmp_path):
    graphs = pytest.importorskip("tests.speech.graphs", reason="makes its acoustic graph with onnx")
    extract(two_clips)
    model = graphs.linear_graph(tmp_path / "m.onnx")
    report, lines = extract(two_clips, Config(encoder="deepspeech", model=model))
    assert (report.done, report.skipped) == (2, 0)
    assert "make ann-1: config (encoder: mel -> deepspeech); weights (acoustic model)" in lines
    assert any("on CPUExecutionProvider" in line for line in lines)
    assert np.load(two_clips / "features" / "ann-1" / "audio.npy").shape == (50, 16, 29)
    manifest = json.loads((two_clips / "features" / "artifact.json").read_text())
    assert manifest["weights"][0]["licence"] == "unknown: given by the user"

    model = model.rename(tmp_path / "renamed.onnx")  # the same content under another name changes nothing
    report, lines = extract(two_clips, Config(encoder="deepspeech", model=model))
    assert (report.done, report.skipped) == (0, 2)

    graphs.linear_graph(model, seed=1)
    report, lines = extract(two_clips, Config(encoder="deepspeech", model=model))
    assert (report.done, report.skipped) == (2, 0) and "make ann-1: weights (acoustic model)" in lines


def test_workers_give_the_same_features(two_clips, tmp_path):
    extract(two_clips)
    one = {id: np.load(two_clips / "features" / id / "audio.npy") for id in ("ann-1", "bob-2")}
    report, _ = extract(two_clips, force=True, workers=2)
    assert (report.done, report.failed) == (2, {})
    for id, audio in one.items():
        assert np.array_equal(np.load(two_clips / "features" / id / "audio.npy"), audio)


def test_dry_run_writes_nothing(two_clips):
    _, lines = extract(two_clips, dry_run=True)
    assert "make ann-1: missing" in lines and not (two_clips / "features").exists()


# -- bad input


def test_a_wrong_model_leaves_the_features_as_they_are(two_clips, tmp_path):
    pytest.importorskip("onnxruntime", reason="reads the model")
    extract(two_clips)
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot open it as an ONNX graph"):
        extract(two_clips, Config(encoder="deepspeech", model=tmp_path / "m.onnx"))
    assert extract(two_clips)[0].skipped == 2


def test_a_damaged_clip_is_recorded_and_the_rest_go_on_and_it_is_tried_again(two_clips):
    good = (two_clips / "clips" / "ann-1" / "frames.npy").read_bytes()
    (two_clips / "clips" / "ann-1" / "frames.npy").write_bytes(b"x")
    report, _ = extract(two_clips)
    assert (report.done, report.exit_code) == (1, 4)
    assert "run `difftalk preprocess` again" in report.failed["ann-1"]
    (two_clips / "clips" / "ann-1" / "frames.npy").write_bytes(good)
    report, _ = extract(two_clips)
    assert (report.done, report.skipped, report.exit_code) == (1, 1, 0)


def test_frames_outside_the_timeline_are_refused(tmp_path):
    root = make_clips(tmp_path / "work", {"a": Made(total=10, frames=[3, 10]), "b": Made()})
    report, _ = extract(root)
    assert report.done == 1 and "frames below 10" in report.failed["a"]


def test_sound_without_samples_fails_that_clip_alone(tmp_path):
    root = make_clips(tmp_path / "work", {"a": Made(sound=np.zeros(0, np.int16)), "b": Made()})
    report, _ = extract(root)
    assert report.done == 1 and list(report.failed) == ["a"]


def test_silent_clips_are_left_out_with_a_warning(tmp_path):
    root = make_clips(tmp_path / "work", {"a": Made(sound=None), "b": Made()})
    report, lines = extract(root)
    assert (report.done, report.exit_code) == (1, 0)
    assert "warning: 1 clips have no sound and are left out: a" in lines


def test_digital_silence_gives_finite_features(tmp_path):
    root = make_clips(tmp_path / "work", {"a": Made(sound=np.zeros(32000, np.int16))})
    extract(root)
    audio = np.load(root / "features" / "a" / "audio.npy")
    assert (audio[10] == -1).all() and np.isfinite(audio).all()


def test_no_clip_with_sound_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no clip with sound"):
        extract(make_clips(tmp_path / "work", {"a": Made(sound=None)}))


def test_no_clips_artifact_says_which_command_makes_it(tmp_path):
    with pytest.raises(ArtifactError, match="difftalk preprocess"):
        extract(tmp_path / "nothing")


def test_the_model_that_ships_is_used_by_default_and_its_hidden_layer_on_request(two_clips):
    report, lines = extract(two_clips, Config())
    assert report.done == 2 and any("29 features at 50 Hz on CPUExecutionProvider" in line for line in lines)
    assert np.load(two_clips / "features" / "ann-1" / "audio.npy").shape == (50, 16, 29)
    artifact = read_artifact(two_clips / "features", "features")
    assert artifact.manifest["facts"] == {"encoder": "deepspeech", "features": 29, "rows_hz": 50, "window": 16, "output": "logits"}
    assert artifact.manifest["weights"][0]["licence"] == "Apache-2.0 (difftalk)"
    report, lines = extract(two_clips, Config(features="hidden"))
    assert report.done == 2 and "make ann-1: config (features: logits -> hidden)" in lines
    width = read_artifact(two_clips / "features", "features").manifest["facts"]["features"]
    assert width > 29 and np.load(two_clips / "features" / "ann-1" / "audio.npy").shape == (50, 16, width)


def test_a_frozen_deepspeech_graph_is_imported_on_the_way(two_clips, tmp_path, monkeypatch):
    from tests.speech import frozen

    monkeypatch.setenv("DIFFTALK_CACHE", str(tmp_path / "cache"))
    graph = frozen.write_graph(tmp_path / "output_graph.pb", frozen.arrays())
    report, lines = extract(two_clips, Config(model=graph))
    assert report.done == 2 and sum("importing" in line for line in lines) == 1
    audio = np.load(two_clips / "features" / "ann-1" / "audio.npy")  # (50, 16, 29)
    # the pipeline to the letter, independently: facts/difftalk-official.md section 6
    from python_speech_features import mfcc

    sound = speech_like(2.0, noise=0.01)
    rows = mfcc(sound, 16000, numcep=26)[::2]
    padded = np.concatenate([np.zeros((9, 26)), rows, np.zeros((9, 26))])
    x = np.stack([padded[i : i + 19].reshape(-1) for i in range(len(rows))])
    logits = frozen.forward(frozen.arrays(), (x - x.mean()) / x.std())[1]
    count = round(50 * 2.0)
    logits = np.stack([np.interp(np.arange(count), np.arange(len(logits)), logits[:, k]) for k in range(29)], axis=1)
    padded = np.concatenate([np.zeros((8, 29)), logits, np.zeros((8, 29))])
    wanted = np.stack([padded[2 * i : 2 * i + 16] for i in range(50)])
    assert audio.shape == wanted.shape and np.abs(audio - wanted).max() < 1e-4


def test_options_that_do_not_fit_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="use --encoder deepspeech"):
        Config(encoder="mel", model=tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="--features hidden: belongs to --encoder deepspeech"):
        Config(encoder="mel", features="hidden")


@pytest.mark.parametrize("by", [-3, 0, 4, 500])
def test_rows_are_moved_and_what_comes_in_is_nothing(by):
    rows = np.arange(1, 21, dtype=np.float32)[:, None].repeat(2, 1)
    moved = extract_audio.shifted(rows, by)
    for r in range(20):
        assert moved[r, 0] == (rows[r - by, 0] if 0 <= r - by < 20 else 0)


def test_a_sound_that_comes_early_is_moved_back_to_its_lips(two_clips, monkeypatch):
    plain = extract(two_clips)[0]
    before = np.array(read_artifact(plain.out, "features").clips["ann-1"].array("audio.npy"))
    monkeypatch.setattr(extract_audio, "sound_offset", lambda *_: 3)
    report, _ = extract(two_clips, Config(encoder="mel", align_sound=True))
    assert report.done == 2 and report.skipped == 0
    clip = read_artifact(report.out, "features").clips["ann-1"]
    after = np.array(clip.array("audio.npy"))
    assert clip.facts["sound_offset"] == 3
    np.testing.assert_array_equal(after[13:40], before[10:37])  # three frames later
    assert not after[0][:14].any()  # before the sound


def test_the_offset_of_a_real_clip_is_found_or_nothing_is_said(shared_clips, tmp_path):
    """The same film with its sound shifted: the offset follows; of half a second nothing is believed."""
    from stages.media.audio import read_audio
    from stages.preprocess import Config as Clips
    from stages.preprocess import run as preprocess

    made = preprocess(Clips(), [shared_clips / "samples" / "OpenTalker__video-retalking__2_old.mp4"], tmp_path / "work", Runtime())
    clip = next(iter(read_artifact(made.out, "clips").clips.values()))
    sound = read_audio(clip.path / "speech.wav")
    frames = np.array(clip.array("frames.npy"))
    found = [
        extract_audio.sound_offset(clip, frames, Fraction(25), np.roll(sound, -640 * early)[: len(sound) - 640 * early])
        for early in (0, 4)
    ]
    assert abs(found[0]) <= 1 and abs(found[1] - found[0] - 4) <= 1
    assert extract_audio.sound_offset(clip, frames, Fraction(25), sound[:8000]) == 0
