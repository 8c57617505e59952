"""evaluate: what it scores, what it says of clips that do not fit, and what it does on a second run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data

from stages import evaluate, weights
from stages.artifacts import file_digest, read_artifact
from stages.errors import InputError, UsageError, WeightsError
from stages.evaluate import Config, Inputs
from stages.faces import FaceTrack
from stages.faces.align import anchors, similarity
from stages.media.audio import read_audio, write_wav
from stages.media.video import VideoReader, VideoWriter
from stages.metrics import scoring
from stages.metrics.names import ROWS, STANDING, result_names
from stages.runtime import Report, Reporter, Runtime
from tests.fetched import fetched
from tests.small import make_model

QUICK = Config(metrics="psnr,ssim", rows="")
SAMPLES = Path(__file__).parents[1] / ".." / "shared" / "clips" / "samples"
MOUTH_AT = (80, 110)


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)

    warn = log


def gradient(i: int, width: int = 160, height: int = 160) -> np.ndarray:
    """A moving picture with fine detail everywhere."""
    rows, columns = np.indices((height, width))
    waves = 40 * np.sin((rows + 3 * i) / 2) + 40 * np.sin((columns - 2 * i) / 3)
    return np.stack([128 + waves, rows + waves, columns - waves], axis=2).clip(0, 255).astype(np.uint8)


def write(path: Path, frames: Iterable[np.ndarray], fps: int = 25) -> Path:
    frames = list(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=Fraction(fps), size=frames[0].shape[1::-1], lossless=True, preset="ultrafast") as video:
        for frame in frames:
            video.write(frame)
    return path


def blurred(frame: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(frame, (0, 0), sigma)


def landmarks() -> np.ndarray:
    """(68, 2) f32 of a face in a 160 px frame, its mouth around MOUTH_AT."""
    points = np.full((68, 2), (80.0, 80.0), np.float32)
    turn = np.exp(2j * np.pi * np.arange(20) / 20)
    points[36:42], points[42:48], points[31:36] = (60, 60), (100, 60), (80, 88)
    points[48:68] = np.stack([MOUTH_AT[0] + 15 * turn.real, MOUTH_AT[1] + 8 * turn.imag], axis=1)
    return points


@pytest.fixture
def made_face(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`find_face` sees a face at a fixed place, without any weights. Call it to say in which frames: seen(stem, number)."""

    def use(seen: Callable[[str, int], bool] = lambda stem, i: True) -> None:
        def find_face(reader: VideoReader, how: scoring.How, tick: Callable[[float], None]) -> FaceTrack:
            count = sum(1 for _ in reader)
            status = np.array([seen(reader.path.stem, i) for i in range(count)]).astype(np.uint8)
            if not status.any():
                raise InputError(f"{reader.path.name}: no face found")
            points = np.repeat(landmarks()[None], count, axis=0)
            align = similarity(anchors(points))
            points[status == 0], align[status == 0] = np.nan, np.nan
            return FaceTrack(points, align, status, np.zeros(count, np.int32), np.zeros(128, np.float32))

        monkeypatch.setattr(scoring, "find_face", find_face)
        monkeypatch.setattr(weights, "locate", lambda name, **_: Path(name))

    use()
    return use


def run(root: Path, config: Config = QUICK, **runtime: Any) -> tuple[Report, dict[str, Any]]:
    """Evaluate root/gen against root/gt into root/out: the report and scores.json, read as strict JSON."""
    report = evaluate.run(config, Inputs(root / "gen", root / "gt"), root / "out", Runtime(**runtime))
    return report, scores(root / "out")


def scores(out: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads((out / "scores.json").read_text(), parse_constant=refuse)


def by_name(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {clip["name"]: clip for clip in result["clips"]}


def make_pairs(root: Path, *names: str, frames: int = 4) -> None:
    for k, name in enumerate(names):
        truth = [gradient(i + 10 * k) for i in range(frames)]
        write(root / "gt" / f"{name}.mp4", truth)
        write(root / "gen" / f"{name}.mp4", [blurred(f, 0.6 + 0.3 * k) for f in truth])


# -- scores


@pytest.mark.usefixtures("made_face")
def test_scores_fall_with_blur_and_equal_videos_have_the_stated_cap(tmp_path: Path) -> None:
    truth = [gradient(i) for i in range(4)]
    for name, sigma in (("same", 0.0), ("slight", 0.5), ("strong", 2.0)):
        write(tmp_path / "gt" / f"{name}.mp4", truth)
        write(tmp_path / "gen" / f"{name}.mp4", [blurred(f, sigma) if sigma else f for f in truth])
    report, result = run(tmp_path)
    clips = by_name(result)
    assert set(clips["same"]["metrics"]) == {"psnr", "ssim", "mouth_psnr", "mouth_ssim", "frame_psnr", "frame_ssim"}
    for metric in clips["same"]["metrics"]:
        same, slight, strong = (clips[name]["metrics"][metric] for name in ("same", "slight", "strong"))
        assert same > slight > strong, metric
        assert same == pytest.approx(100.0 if "psnr" in metric else 1.0)
        mean = result["methods"]["generated"][metric]
        assert mean["n"] == 3 and mean["mean"] == pytest.approx((same + slight + strong) / 3)
        assert strong - 1e-9 <= mean["ci95"][0] < mean["mean"] < mean["ci95"][1] <= same + 1e-9
    assert "at most 100" in result["settings"]["psnr"]
    assert report.facts["methods"] == result["methods"] and report.exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "per_clip.jsonl").read_text().splitlines()]
    assert lines == result["clips"]
    assert read_artifact(tmp_path / "out", "scores").manifest["facts"]["methods"] == result["methods"]


@pytest.mark.usefixtures("made_face")
@pytest.mark.parametrize(
    ("at", "hurt", "spared"), [(MOUTH_AT, ("mouth_", "", "frame_"), ()), ((8, 8), ("frame_",), ("", "mouth_"))]
)
def test_each_region_sees_what_lies_in_it(
    tmp_path: Path, at: tuple[int, int], hurt: tuple[str, ...], spared: tuple[str, ...]
) -> None:
    truth = [gradient(i) for i in range(3)]
    write(tmp_path / "gt" / "a.mp4", truth)
    write(tmp_path / "gen" / "a.mp4", [cv2.circle(f.copy(), at, 6, (255, 0, 0), -1) for f in truth])
    metrics = by_name(run(tmp_path)[1])["a"]["metrics"]
    found = [metrics[f"{region}psnr"] for region in hurt]
    assert found == sorted(found) and max(found) < 40  # the smaller the region, the more the spot weighs
    assert all(metrics[f"{region}psnr"] == 100 for region in spared)


@pytest.mark.usefixtures("made_face")
def test_frame_scores_are_the_plain_metrics_of_the_frames(tmp_path: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    make_pairs(tmp_path, "a")
    clip = by_name(run(tmp_path)[1])["a"]
    pairs = zip(*(VideoReader(tmp_path / side / "a.mp4") for side in ("gt", "gen")), strict=True)
    expected = [peak_signal_noise_ratio(a, b) for a, b in pairs]
    stored = read_artifact(tmp_path / "out", "scores").clips[clip["clip"]]
    table = stored.array("per_frame.npy")
    assert table.shape == (4, len(stored.facts["columns"]))
    column = table[:, stored.facts["columns"].index("frame_psnr")]
    looked = np.isfinite(column)
    assert looked[0] and looked.sum() == 1  # of four frames: one in 0.2 s
    np.testing.assert_allclose(column[looked], np.array(expected)[looked], rtol=1e-6)
    assert clip["metrics"]["frame_psnr"] == pytest.approx(expected[0], abs=1e-5)


def test_frames_without_a_face_count_for_the_whole_frame_only(tmp_path: Path, made_face: Callable[..., None]) -> None:
    made_face(lambda stem, i: i < 2)
    truth = [gradient(i) for i in range(6)]
    write(tmp_path / "gt" / "a.mp4", truth)
    write(tmp_path / "gen" / "a.mp4", [f if i < 2 else blurred(f, 2) for i, f in enumerate(truth)])
    clip = by_name(run(tmp_path)[1])["a"]
    assert clip["metrics"]["psnr"] == clip["metrics"]["mouth_psnr"] == 100 > clip["metrics"]["frame_psnr"]
    assert clip["frames"] == {"generated": 6, "truth": 6, "used": 6, "face": 2}
    assert any("4 of 6 frames show none" in note for note in clip["notes"])


@pytest.mark.usefixtures("made_face")
def test_other_length_rate_and_size_are_brought_together_and_told(tmp_path: Path) -> None:
    truth = [gradient(i) for i in range(10)]
    write(tmp_path / "gt" / "length.mp4", truth)
    write(tmp_path / "gen" / "length.mp4", truth[:7])
    write(tmp_path / "gt" / "rate.mp4", truth)
    write(tmp_path / "gen" / "rate.mp4", [f for f in truth for _ in range(2)], fps=50)
    write(tmp_path / "gt" / "size.mp4", truth)
    write(tmp_path / "gen" / "size.mp4", [cv2.resize(f, (320, 320), interpolation=cv2.INTER_NEAREST) for f in truth])
    clips = by_name(run(tmp_path)[1])
    assert clips["length"]["metrics"]["frame_psnr"] == 100 and clips["length"]["frames"]["used"] == 7
    assert clips["rate"]["metrics"]["frame_psnr"] == 100 and clips["rate"]["frames"]["used"] == 10
    assert clips["size"]["metrics"]["frame_psnr"] == 100  # each pixel doubled, then averaged back
    for name, word in (
        ("length", "0.28 s, truth 0.40 s"),
        ("rate", "generated 50, truth 25"),
        ("size", "320x320 resized to 160x160"),
    ):
        assert len(clips[name]["notes"]) == 1 and word in clips[name]["notes"][0]


@pytest.mark.usefixtures("made_face")
def test_a_video_damaged_at_its_end_is_scored_as_far_as_it_goes_and_told(tmp_path: Path) -> None:
    make_pairs(tmp_path, "a", frames=12)
    path = tmp_path / "gen" / "a.mp4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # its index stands at the front
    clip = by_name(run(tmp_path)[1])["a"]
    assert 0 < clip["frames"]["used"] < 12 and clip["metrics"]["psnr"] > 10
    assert any("generated: damaged" in note for note in clip["notes"]) and any("length" in note for note in clip["notes"])


# -- running again


@pytest.mark.usefixtures("made_face")
def test_the_same_command_again_scores_nothing_and_a_new_video_only_its_clip(tmp_path: Path) -> None:
    make_pairs(tmp_path, "a", "b", "c")
    first, before = run(tmp_path)
    again, same = run(tmp_path, Config(metrics="ssim, PSNR", rows=" "))  # another spelling of the same choice
    assert (first.done, again.done, again.skipped) == (3, 0, 3) and same == before
    write(tmp_path / "gen" / "b.mp4", [gradient(i + 10) for i in range(4)])
    third, after = run(tmp_path)
    assert (third.done, third.skipped) == (1, 2)
    assert by_name(after)["b"]["metrics"]["psnr"] == 100 and by_name(after)["a"] == by_name(before)["a"]
    fourth, _ = run(tmp_path, Config(metrics="psnr", rows=""))
    assert fourth.done == 3


@pytest.mark.usefixtures("made_face")
def test_a_pair_that_is_gone_leaves_the_means(tmp_path: Path) -> None:
    make_pairs(tmp_path, "a", "b")
    write(tmp_path / "gen" / "extra.mp4", [gradient(0)])
    assert run(tmp_path)[0].exit_code == 4
    for path in ("gen/b.mp4", "gt/b.mp4", "gen/extra.mp4"):
        (tmp_path / path).unlink()
    notes = Notes()
    report, result = run(tmp_path, reporter=notes)
    assert report.exit_code == 0 and list(by_name(result)) == ["a"]
    assert result["methods"]["generated"]["psnr"]["n"] == 1 and result["methods"]["generated"]["psnr"]["ci95"] is None
    manifest = read_artifact(tmp_path / "out", "scores").manifest
    assert len(manifest["clips"]["ok"]) == 1 and manifest["clips"]["failed"] == []
    assert any(line.startswith("drop b-") for line in notes.lines)


@pytest.mark.usefixtures("made_face")
def test_shards_make_together_what_one_run_makes(tmp_path: Path) -> None:
    make_pairs(tmp_path, "a", "b", "c", frames=2)
    whole = run(tmp_path)[1]
    inputs = Inputs(tmp_path / "gen", tmp_path / "gt")
    done = [evaluate.run(QUICK, inputs, tmp_path / "parts", Runtime(shard=(i, 2))).done for i in range(2)]
    assert sum(done) == 3 and not (tmp_path / "parts" / "scores.json").exists()
    report = evaluate.run(QUICK, inputs, tmp_path / "parts", Runtime())
    assert report.skipped == 3 and scores(tmp_path / "parts") == whole


@pytest.mark.usefixtures("made_face")
def test_dry_run_tells_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    make_pairs(tmp_path, "a", frames=2)
    notes = Notes()
    evaluate.run(QUICK, Inputs(tmp_path / "gen", tmp_path / "gt"), tmp_path / "out", Runtime(dry_run=True, reporter=notes))
    assert any("make a-" in line and "missing" in line for line in notes.lines)
    assert not (tmp_path / "out").exists()


# -- what cannot be scored


def test_clips_that_cannot_be_scored_are_told_and_the_rest_go_on(tmp_path: Path, made_face: Callable[..., None]) -> None:
    make_pairs(tmp_path, "good", "torn", "early")
    write(tmp_path / "gen" / "extra.mp4", [gradient(0)])
    write(tmp_path / "gt" / "missing.mp4", [gradient(0)])
    (tmp_path / "gen" / "torn.mp4").write_bytes((tmp_path / "gen" / "torn.mp4").read_bytes()[5000:])
    # the face of `early` comes only after the generated video has ended
    write(tmp_path / "gt" / "early.mp4", [gradient(i) for i in range(9)])
    made_face(lambda stem, i: stem != "early" or i >= 4)
    (tmp_path / "gen" / "empty.mp4").write_bytes(b"")
    write(tmp_path / "gt" / "empty.mp4", [gradient(0)])
    report, result = run(tmp_path)
    clips = by_name(result)
    assert report.exit_code == 4 and report.done == 1 and len(report.failed) == 5
    said = {name: clip["error"] for name, clip in clips.items() if "error" in clip}
    assert set(said) == {"torn", "extra", "missing", "early", "empty"}
    for name, word in {
        "torn": "torn.mp4", "extra": "no ground truth", "missing": "no generated video", "early": "no face in the 4 frames",
        "empty": "empty",
    }.items():  # fmt: skip
        assert word in said[name], said[name]
    assert result["methods"]["generated"]["psnr"]["n"] == 1 and "metrics" in clips["good"]
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert len(failures) == 5
    again, same = run(tmp_path)
    assert again.done == 0 and again.exit_code == 4 and same == result
    write(tmp_path / "gt" / "extra.mp4", [gradient(0)])  # its partner has come
    assert run(tmp_path)[0].done == 1


def test_nothing_scored_is_an_empty_table_and_exit_code_3(tmp_path: Path, made_face: Callable[..., None]) -> None:
    made_face(lambda stem, i: False)
    make_pairs(tmp_path, "a", frames=2)
    report, result = run(tmp_path)
    assert report.exit_code == 3 and result["methods"] == {"generated": {}}
    assert "no face found" in result["clips"][0]["error"]


def test_weights_that_cannot_be_had_stop_the_run_before_any_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, **_: Any) -> Path:
        raise WeightsError(f"{name} is not on this machine")

    monkeypatch.setattr(weights, "locate", absent)
    make_pairs(tmp_path, "a", frames=2)
    with pytest.raises(WeightsError, match="not on this machine"):
        run(tmp_path)
    assert not (tmp_path / "out" / "failures.jsonl").exists()


@pytest.mark.parametrize(
    "bad",
    [
        {"metrics": "psnr,fid"}, {"metrics": " , "}, {"rows": "floor"}, {"resolution": 8}, {"mouth_resolution": 9999}, {"face": -1},
        {"vgg_seconds": -1}, {"lpips_seconds": -0.1}, {"row_seconds": 0.5},
    ],
)
def test_options_that_cannot_work_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Config(**bad)


@pytest.mark.usefixtures("made_face")
def test_two_single_videos_of_any_names_are_one_pair(tmp_path: Path) -> None:
    make_pairs(tmp_path, "a", frames=2)
    (tmp_path / "gt" / "a.mp4").rename(tmp_path / "truth.mp4")
    evaluate.run(QUICK, Inputs(tmp_path / "gen" / "a.mp4", tmp_path / "truth.mp4"), tmp_path / "out", Runtime())
    (clip,) = scores(tmp_path / "out")["clips"]
    assert clip["name"] == "a" and clip["files"] == {"generated": "a.mp4", "truth": "truth.mp4"}


# -- with a real face


def astronaut(i: int) -> np.ndarray:
    """A real face (NASA, public domain), drifting."""
    return np.ascontiguousarray(np.roll(skimage.data.astronaut()[30:250, 140:360], i, axis=1))


def test_workers_find_the_same_as_one_process_on_a_real_face(tmp_path: Path) -> None:
    fetched("dlib-68")
    for name, sigma in (("slight", 0.7), ("strong", 3.0)):
        truth = [astronaut(i) for i in range(3)]
        write(tmp_path / "gt" / f"{name}.mp4", truth)
        write(tmp_path / "gen" / f"{name}.mp4", [blurred(f, sigma) for f in truth])
    write(tmp_path / "gt" / "nobody.mp4", [gradient(i) for i in range(2)])
    write(tmp_path / "gen" / "nobody.mp4", [gradient(i) for i in range(2)])
    pooled, result = run(tmp_path, workers=2)
    inputs = Inputs(tmp_path / "gen", tmp_path / "gt")
    alone = evaluate.run(QUICK, inputs, tmp_path / "alone", Runtime())
    assert scores(tmp_path / "alone") == result
    assert pooled.exit_code == alone.exit_code == 4 and "no face found" in by_name(result)["nobody"]["error"]
    slight, strong = (by_name(result)[name]["metrics"] for name in ("slight", "strong"))
    assert all(slight[metric] > strong[metric] for metric in slight)


@pytest.mark.weights
def test_a_real_clip_orders_copies_by_how_much_they_are_blurred(tmp_path: Path) -> None:
    source = SAMPLES / "OpenTalker__video-retalking__2_old.mp4"
    if not source.is_file():
        pytest.skip("the sample clips are not beside this checkout")
    for name in ("dlib-68", *evaluate.LPIPS_FILES["lpips_alex"]):
        fetched(name)
    frames = [cv2.resize(f, (422, 422), interpolation=cv2.INTER_AREA) for f in VideoReader(source, frames=5)]
    for name, sigma in (("same", 0.0), ("slight", 1.0), ("strong", 4.0)):
        write(tmp_path / "gt" / f"{name}.mp4", frames)
        write(tmp_path / "gen" / f"{name}.mp4", [blurred(f, sigma) if sigma else f for f in frames])
    report, result = run(tmp_path, Config(metrics="psnr,ssim,lpips", rows=""), device="cpu")
    assert report.exit_code == 0
    clips = by_name(result)
    for metric in ("psnr", "ssim", "mouth_psnr", "mouth_ssim", "frame_psnr", "frame_ssim"):
        assert clips["same"]["metrics"][metric] > clips["slight"]["metrics"][metric] > clips["strong"]["metrics"][metric]
    for metric in ("lpips_alex", "mouth_lpips_alex"):
        found = [clips[name]["metrics"][metric] for name in ("same", "slight", "strong")]
        assert found[0] == 0 < found[1] < found[2]
    used = {w["role"] for w in read_artifact(tmp_path / "out", "scores").manifest["weights"]}
    assert {"lpips-alex-trunk", "lpips-alex-heads", "dlib-68"} <= used


def test_import_brings_no_heavy_package() -> None:
    code = "import sys, stages.evaluate; sys.exit(any(m in sys.modules for m in ('torch', 'cv2', 'scipy', 'dlib')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


# -- all rows, problems and the report, on a made clip that speaks


@pytest.fixture(scope="module")
def scored(made_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/out: a good pair, a silent one, one without a face, a torn one, and two without a partner; all rows by a tiny model."""
    for name in ("dlib-68", "dlib-resnet"):
        fetched(name)
    root = tmp_path_factory.mktemp("scored")
    frames, rate = list(VideoReader(made_clip, frames=40)), 16_000
    write_wav(root / "speech.wav", read_audio(made_clip)[: 40 * rate // 25])

    def speak(path: Path, shown: list[np.ndarray]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = shown[0].shape[1::-1]
        with VideoWriter(path, fps=Fraction(25), size=size, lossless=True, preset="ultrafast", audio=root / "speech.wav") as out:
            for frame in shown:
                out.write(frame)

    speak(root / "gt" / "good.mp4", frames)
    speak(root / "gen" / "good.mp4", [blurred(frames[max(0, i - 3)], 0.8) for i in range(40)])
    speak(root / "other" / "good.mp4", [blurred(f, 4.0) for f in frames])
    write(root / "gt" / "silent.mp4", frames[:8])
    write(root / "gen" / "silent.mp4", frames[:8])
    for side in ("gt", "gen"):
        write(root / side / "nobody.mp4", [gradient(i) for i in range(2)])
        write(root / side / "torn.mp4", frames[:2])
    (root / "gen" / "torn.mp4").write_bytes(b"no film " * 500)
    write(root / "gen" / "extra.mp4", frames[:1])
    write(root / "gt" / "missing.mp4", frames[:1])
    make_model(root / "model", still=True)
    report = evaluate.run(ALL, inputs_of(root), root / "out", Runtime(device="cpu"))
    assert report.exit_code == 4
    return root


ALL = Config(metrics="psnr,ssim,mouth,identity,jitter,sync", rows=",".join(ROWS), row_seconds=1.2)


def inputs_of(root: Path) -> Inputs:
    return Inputs(root / "gen", root / "gt", {"other": root / "other"}, root / "model")


def test_every_row_stands_beside_the_methods_with_every_metric(scored: Path) -> None:
    methods = scores(scored / "out")["methods"]
    assert set(methods) == {"generated", "other", *STANDING, "turned_copy"}
    for name, means in methods.items():
        assert set(means) == set(result_names(ALL.chosen)), name
        assert all(set(figure) == {"mean", "ci95", "n"} for figure in means.values())
    truth, made = methods["ground_truth"], methods["generated"]
    assert truth["psnr"]["mean"] == 100 and truth["ssim"]["mean"] == 1 and truth["mouth_landmark_distance"]["mean"] == 0
    assert truth["jitter"]["mean"] == pytest.approx(1) and truth["identity_distance"]["mean"] == 0
    assert made["psnr"]["mean"] > methods["other"]["psnr"]["mean"]
    copied = methods["copy_baseline"]
    assert copied["mouth_psnr"]["mean"] < copied["frame_psnr"]["mean"] < 100 and copied["flicker"]["mean"] == 0
    assert methods["turned_copy"]["psnr"]["mean"] != copied["psnr"]["mean"]
    assert methods["autoencoder"]["frame_psnr"]["mean"] < 100


def test_a_mouth_that_comes_three_frames_late_is_told_by_lag_and_offset(scored: Path) -> None:
    clips = {(c["method"], c["name"]): c for c in scores(scored / "out")["clips"]}
    late, true = clips["generated", "good"]["metrics"], clips["ground_truth", "good"]["metrics"]
    assert late["lip_opening_lag"] == 3
    assert late["sync_offset"] - true["sync_offset"] == pytest.approx(3, abs=1)


def test_each_clip_says_what_is_wrong_with_it_and_the_rest_is_scored(scored: Path) -> None:
    result = scores(scored / "out")
    said = {(c["method"], c["name"]): c.get("error") or " ".join(c["problems"]) for c in result["clips"]}
    for name, word in {"extra": "no ground truth", "missing": "no generated video", "nobody": "no face", "torn": "torn.mp4"}.items():
        assert word in said["generated", name], said["generated", name]
    assert "nobody.mp4" in said["ground_truth", "nobody"] and "no generated video" in said["other", "missing"]
    # a silent truth is scored but for the sync
    assert "ground truth is silent" in said["generated", "silent"]
    silent = next(c for c in result["clips"] if (c["method"], c["name"]) == ("generated", "silent"))
    assert silent["metrics"]["psnr"] == 100 and not any(name.startswith("sync") for name in silent["metrics"])
    assert said["generated", "good"] == said["copy_baseline", "good"] == said["wrong_audio", "good"] == ""
    means = result["methods"]["generated"]
    assert means["psnr"]["n"] == 2 and means["sync_offset"]["n"] == 1
    told = [json.loads(line) for line in (scored / "out" / "failures.jsonl").read_text().splitlines()]
    partly = {record["id"] for record in told if record.get("partial")}
    assert silent["clip"] in partly and all(record["message"] for record in told)


def test_the_command_again_prints_scores_json_and_ends_with_4(scored: Path) -> None:
    command = [sys.executable, "-m", "difftalk_cli", "evaluate", "gen", "gt", "--method", "other=other", "--model", "model", "-o", "out"]
    settings = ["--metrics", ALL.metrics, "--rows", ALL.rows, "--row-seconds", "1.2", "--device", "cpu", "--json"]
    root = Path(__file__).parents[1]
    done = subprocess.run([*command, *settings], cwd=scored, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    printed, stored = json.loads(done.stdout), scores(scored / "out")
    assert printed["done"] == 0 and printed["skipped"] == sum("metrics" in c for c in stored["clips"])
    assert {key: printed[key] for key in ("methods", "clips", "settings")} == stored
    assert "copy_baseline" in done.stderr and "lip_opening_lag" in done.stderr  # the table


def test_the_report_is_one_file_that_asks_nobody_for_anything(scored: Path) -> None:
    page = (scored / "out" / "report.html").read_text(encoding="utf-8")
    addresses = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert addresses and all(a.startswith("data:image/") for a in addresses)
    assert "<script" not in page and "@import" not in page and "://" not in page
    for word in ("generated", "other", *STANDING, "Mouth opening", "Sync curve", "Adjacent-frame", "95 %", "bootstrap", "sha256"):
        assert word in page, word
    for problem in ("no ground truth of that name", "ground truth is silent"):
        assert problem in page
    assert page.count("<svg") >= 2 and page.count("data:image/png") >= 7 and page.count("data:image/jpeg") >= 6
    digest = file_digest(scored / "gt" / "good.mp4")
    assert digest in page
    HTMLParser().feed(page)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
def test_the_report_fits_a_browser_window_and_shows_its_pictures(scored: Path, tmp_path: Path, width: int) -> None:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if not (browser and shutil.which("chromedriver")):
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", f"--user-data-dir={tmp_path}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        grounds = []
        for scheme in ("light", "dark"):
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
            driver.get((scored / "out" / "report.html").as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width  # nothing sticks out
            assert driver.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
            grounds.append(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert grounds[0] != grounds[1]
        assert not driver.get_log("browser")
    finally:
        driver.quit()


def test_a_frames_artifact_is_scored_like_the_film_that_it_holds(scored: Path, tmp_path: Path) -> None:
    from stages.artifacts import Input, Store, Unit
    from stages.media.frames import FrameWriter

    @dataclass(frozen=True, kw_only=True)
    class Made:
        steps: int = 1

    frames = list(VideoReader(scored / "gen" / "good.mp4"))
    with Store(tmp_path / "frames", kind="frames", stage="infer", code=1, config=Made(), runtime=Runtime()) as store:
        for unit in store.plan([Unit("good-0a1b2c3d", (Input("audio", "file", "x"),))]):
            with store.draft(unit) as draft:
                writer = FrameWriter(draft.path)
                for frame in frames:
                    writer.write(frame)
                draft.facts |= {"fps": "25/1", "frames": len(frames)}
        store.seal()
    config = Config(metrics="psnr,mouth,sync", rows="")
    report = evaluate.run(config, Inputs(tmp_path / "frames", scored / "gt"), tmp_path / "out", Runtime(device="cpu"))
    clip = next(c for c in scores(tmp_path / "out")["clips"] if c["name"] == "good")
    film = next(c for c in scores(scored / "out")["clips"] if (c["method"], c["name"]) == ("generated", "good"))
    assert report.done == 1 and clip["frames"] == film["frames"] and clip["fps"] == "25/1"
    for metric in ("psnr", "mouth_psnr", "lip_opening_correlation", "sync_offset"):
        assert clip["metrics"][metric] == pytest.approx(film["metrics"][metric], abs=1e-6)
