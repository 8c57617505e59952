import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from stages import interpolate, weights
from stages.artifacts import Input, Store, Unit, read_artifact
from stages.errors import ArtifactError, InputError, UsageError, WeightsError
from stages.interpolate import Config, Interpolator, changed, timesteps
from stages.media import VideoReader, VideoWriter, ffmpeg, probe
from stages.media.audio import write_wav
from stages.media.frames import FrameFolder, FrameWriter
from stages.media.probe import read_tags
from stages.models.rife import Rife
from stages.runtime import Runtime
from tests.fetched import fetched

SIZE = 96


class Average(Rife):
    """A network that answers with the mean of both pictures, and notes what it was shown."""

    def __init__(self):
        super().__init__()
        self.shown: list[tuple[int, ...]] = []

    def between(self, a, b, *, shrink=1):
        self.shown.append(tuple(a.shape))
        return (a + b) / 2


@pytest.fixture
def average(monkeypatch) -> Average:
    network = Average()
    monkeypatch.setattr(interpolate, "open_rife", lambda runtime: network)
    return network


def picture(shift: float, seed: int = 0) -> np.ndarray:
    """(SIZE, SIZE, 3) u8: a smooth pattern, of less contrast than a cut takes, that has moved to the right."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    waves = [np.sin((x - shift) / (7.0 + seed) + c) * np.cos(y / (9.0 + 2 * seed) + c * seed) for c in range(3)]
    return (127.5 + 45 * np.stack(waves, axis=-1)).round().astype(np.uint8)


def write(path: Path, frames, fps=Fraction(25), audio: Path | None = None, **options) -> Path:
    height, width = frames[0].shape[:2]
    options = {"lossless": True} | options
    with VideoWriter(path, fps=fps, size=(width, height), audio=audio, **options) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def packets(path: Path) -> bytes:
    """What the first audio stream consists of."""
    return ffmpeg.run(["-i", ffmpeg.arg(path), "-map", "0:a:0", "-c", "copy", "-f", "data", "-"], check=path)[0]


def read(path: Path) -> list[np.ndarray]:
    return list(VideoReader(path))


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """12 moving frames at 25 fps with half a second of sound, colour tags of HDTV, and a comment."""
    folder = tmp_path_factory.mktemp("spoken")
    tone = (8000 * np.sin(np.arange(7680) / 5)).astype(np.int16)
    write_wav(folder / "tone.wav", tone)
    frames = [picture(2.0 * i) for i in range(12)]
    return write(
        folder / "spoken.mp4", frames, audio=folder / "tone.wav", lossless=False, metadata={"comment": "a=b; #synthetic \\"}
    )


@pytest.mark.parametrize(("config", "frames", "fps"), [
    (Config(), 24, Fraction(50)),
    (Config(factor=3), 36, Fraction(75)),
    (Config(fps=60), 29, Fraction(60)),
    (Config(fps=29.97), 15, Fraction(30000, 1001)),
])  # fmt: skip
def test_rate_count_and_length(average, spoken, tmp_path, config, frames, fps):
    out = tmp_path / "out.mp4"
    report = interpolate.run(config, spoken, out, Runtime())
    before, after = probe(spoken), probe(out)
    assert after.video.fps == fps and len(read(out)) == frames == report.facts["frames"]
    assert abs(frames / fps - Fraction(12, 25)) <= 1 / fps
    assert abs(after.seconds - before.seconds) <= 1 / fps + 0.01


def test_sound_tags_and_metadata_are_kept(average, spoken, tmp_path):
    out = tmp_path / "out.mp4"
    interpolate.run(Config(), spoken, out, Runtime())
    assert packets(out) == packets(spoken) != b""
    before, after = probe(spoken).video, probe(out).video
    assert (after.matrix, after.primaries, after.transfer) == (before.matrix, before.primaries, before.transfer)
    assert after.matrix == "bt709" and (after.width, after.height) == (SIZE, SIZE)
    assert read_tags(out) == read_tags(spoken) == {"comment": "a=b; #synthetic \\"}


def test_out_json_names_source_settings_and_weights(average, spoken, tmp_path):
    interpolate.run(Config(factor=4), spoken, tmp_path / "out.mp4", Runtime())
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["frames_read"] == 12 and facts["frames"] == 48 and facts["settings"]["factor"] == 4
    assert facts["weights"]["sha256"] == weights.describe("rife-hdv3").sha256


def test_source_frames_stay_at_their_moments(average, tmp_path):
    frames = [picture(3.0 * i) for i in range(5)]
    source = write(tmp_path / "in.mp4", frames)
    interpolate.run(Config(factor=2, lossless=True), source, tmp_path / "out.mp4", Runtime())
    made = read(tmp_path / "out.mp4")
    assert all(np.array_equal(made[2 * i], frames[i]) for i in range(5))
    assert all(np.abs(made[2 * i + 1] - (frames[i] / 2 + frames[i + 1] / 2)).max() <= 0.51 for i in range(4))
    assert np.array_equal(made[9], frames[4])  # held to the end


def test_lossless_source_becomes_an_ordinary_video(average, tmp_path):
    frames = [picture(3.0 * i) for i in range(3)]
    interpolate.run(Config(crf=8), write(tmp_path / "in.mp4", frames), tmp_path / "out.mp4", Runtime())
    video = probe(tmp_path / "out.mp4").video
    assert video.matrix == "bt709" and "420" in video.pixel_format  # what players show, unlike RGB
    assert np.abs(read(tmp_path / "out.mp4")[2].astype(int) - frames[1]).mean() < 4


def test_odd_sizes_and_no_sound(average, tmp_path):
    frames = [picture(3.0 * i)[:61, :83] for i in range(3)]
    interpolate.run(Config(), write(tmp_path / "in.mkv", frames), tmp_path / "out.mkv", Runtime())
    media = probe(tmp_path / "out.mkv")
    assert media.audio is None and (media.video.width, media.video.height) == (83, 61)
    assert len(read(tmp_path / "out.mkv")) == 6


def test_cut_is_held_and_never_smeared(average):
    frames = [picture(2.0 * i) for i in range(4)] + [picture(2.0 * i, seed=3) for i in range(4)]
    work = Interpolator(average, Fraction(4))
    made = list(work.frames(frames))
    assert work.count.cuts == 1 and len(made) == 32
    assert all(np.array_equal(made[k], frames[3]) for k in range(12, 16))
    assert np.array_equal(made[16], frames[4])
    smeared = list(Interpolator(average, Fraction(4), cut_threshold=255).frames(frames))
    assert not np.array_equal(smeared[14], frames[3])


def test_default_threshold_is_the_tracker_s():
    from stages.faces.shots import CUT_DIFFERENCE

    assert Config().cut_threshold == CUT_DIFFERENCE


def test_still_pictures_never_reach_the_network(average):
    noise = np.random.default_rng(0).integers(-1, 2, (SIZE, SIZE, 3))
    quiet = (picture(0) + noise).astype(np.uint8)
    work = Interpolator(average, Fraction(2))
    assert len(list(work.frames([picture(0), quiet, picture(0)]))) == 6
    assert work.count.still == 2 and not average.shown


def test_only_what_moves_goes_through_the_network(average):
    a = np.full((400, 600, 3), 90, np.uint8)
    b = a.copy()
    a[200:210, 300:310], b[200:210, 304:314] = 255, 255
    middle = Interpolator(average, Fraction(2)).between(a, b, [0.5])[0]
    assert average.shown == [(1, 3, 10 + 128, 14 + 128)]
    assert np.abs(middle - (a / 2 + b / 2)).max() <= 0.51


def test_changed_part_takes_the_whole_picture_when_it_would_save_little():
    assert changed(picture(0), picture(3)) == (slice(0, SIZE), slice(0, SIZE))
    assert changed(picture(0), picture(0)) is None


@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(3), Fraction(12, 5), Fraction(1200, 1001)])
def test_timesteps_are_evenly_spaced_across_frames(ratio):
    moments = [i + t for i in range(20) for t in timesteps(i, ratio)]
    np.testing.assert_allclose(moments, np.arange(len(moments)) / float(ratio), atol=1e-9)
    assert all(0 <= t < 1 for i in range(20) for t in timesteps(i, ratio))


def test_frames_are_taken_only_as_they_are_needed(average):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield picture(2.0 * (taken % 7))

    made = Interpolator(average, Fraction(2)).frames(endless())
    for _ in range(40):
        next(made)
    assert taken <= 21 + 1


def test_failure_on_the_way_leaves_what_was_there(average, spoken, tmp_path, monkeypatch):
    out = tmp_path / "out.mp4"
    out.write_text("before")
    monkeypatch.setattr(average, "between", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        interpolate.run(Config(), spoken, out, Runtime())
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"] and out.read_text() == "before"


@pytest.mark.parametrize("options", [{"factor": 1}, {"factor": 9}, {"fps": 0.0}, {"cut_threshold": -1.0}, {"crf": 99}])
def test_options_out_of_range(options):
    with pytest.raises(UsageError, match="--" + next(iter(options)).replace("_", "-")):
        Config(**options)


@pytest.mark.parametrize(("fps", "words"), [(24, "already has 25"), (25, "already has 25"), (201, "more than 8 times")])
def test_rates_that_cannot_be_reached(average, spoken, tmp_path, fps, words):
    with pytest.raises(UsageError, match=words):
        interpolate.run(Config(fps=fps), spoken, tmp_path / "out.mp4", Runtime())
    assert not (tmp_path / "out.mp4").exists()


def test_photos_sound_and_absent_files_are_refused(average, tmp_path):
    from PIL import Image

    Image.fromarray(picture(0)).save(tmp_path / "photo.png")
    write_wav(tmp_path / "sound.wav", np.zeros(16000, np.int16))
    for name, words in (("photo.png", "photo"), ("sound.wav", "no video stream"), ("absent.mp4", "no such file")):
        with pytest.raises(InputError, match=words):
            interpolate.run(Config(), tmp_path / name, tmp_path / "out.mp4", Runtime())


def test_outputs_that_cannot_be_written_are_refused(average, spoken, tmp_path):
    for out, words in ((spoken, "overwrite"), (tmp_path / "out.webm", r"cannot write \.webm"), (tmp_path / "out", "suffix")):
        with pytest.raises(UsageError, match=words):
            interpolate.run(Config(), spoken, out, Runtime())


def test_dry_run_changes_nothing(average, spoken, tmp_path):
    interpolate.run(Config(), spoken, tmp_path / "out.mp4", Runtime(dry_run=True))
    assert not list(tmp_path.iterdir())


def test_offline_without_weights_says_how_to_get_them(spoken, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFTALK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFFTALK_WEIGHTS", raising=False)
    with pytest.raises(WeightsError, match="difftalk weights fetch rife-hdv3"):
        interpolate.run(Config(), spoken, tmp_path / "out.mp4", Runtime(offline=True))
    assert not (tmp_path / "out.mp4").exists()


def make_frames(root: Path, facts: dict) -> Path:
    """A frames artifact of one clip with 4 moving frames and a sound file."""
    with Store(root, kind="frames", stage="infer", code=1, config=Config(), runtime=Runtime()) as store:
        for unit in store.plan([Unit("ann-12345678", (Input("audio", "file", "0" * 64),))]):
            with store.draft(unit) as draft:
                writer = FrameWriter(draft.path)
                for i in range(4):
                    writer.write(picture(2.0 * i))
                (draft.path / "speech.wav").write_bytes(b"sound")
                draft.facts |= facts
        store.seal()
    return root


def test_frames_artifact_in_frames_artifact_out(average, tmp_path):
    root = make_frames(tmp_path / "in", {"fps": "25/1", "frames": 4, "people": 1})
    out = tmp_path / "out"
    assert interpolate.run(Config(factor=2), root, out, Runtime()).done == 1
    clip = read_artifact(out, "frames").clips["ann-12345678"]
    frames = list(FrameFolder(clip.path))
    assert len(frames) == 8 == clip.facts["frames"] and Fraction(clip.facts["fps"]) == 50 and clip.facts["people"] == 1
    assert np.array_equal(frames[2], picture(2.0)) and (clip.path / "speech.wav").read_bytes() == b"sound"
    manifest = json.loads((out / "artifact.json").read_text())
    assert [w["role"] for w in manifest["weights"]] == ["rife-hdv3"]


def test_frames_artifact_is_made_once(average, tmp_path):
    root, out = make_frames(tmp_path / "in", {"fps": "25/1", "frames": 4}), tmp_path / "out"
    interpolate.run(Config(), root, out, Runtime())
    average.shown.clear()
    again = interpolate.run(Config(), root, out, Runtime())
    assert (again.done, again.skipped) == (0, 1) and not average.shown
    assert interpolate.run(Config(factor=4), root, out, Runtime()).done == 1


def test_frames_artifact_without_a_rate_or_with_a_higher_one_is_refused(average, tmp_path):
    with pytest.raises(ArtifactError, match="frame rate"):
        interpolate.run(Config(), make_frames(tmp_path / "a", {}), tmp_path / "out", Runtime())
    with pytest.raises(UsageError, match="already has 25"):
        interpolate.run(Config(fps=20), make_frames(tmp_path / "b", {"fps": "25/1"}), tmp_path / "out", Runtime())
    with pytest.raises(UsageError, match="folder"):
        interpolate.run(Config(), tmp_path / "b", tmp_path / "out.mp4", Runtime())
    assert not (tmp_path / "out").exists()


def test_folder_that_is_no_frames_artifact_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"artifact\.json"):
        interpolate.run(Config(), tmp_path, tmp_path / "out", Runtime())


def test_import_brings_no_heavy_package():
    import subprocess

    code = "import sys, stages.interpolate; sys.exit(any(m in sys.modules for m in ('torch', 'cv2', 'PIL', 'dlib')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


@pytest.mark.weights
def test_in_between_frames_beat_a_blend(tmp_path):
    fetched("rife-hdv3")
    source = write(tmp_path / "in.mp4", [picture(6.0 * i) for i in range(4)])
    interpolate.run(Config(lossless=True), source, tmp_path / "out.mp4", Runtime(device="cpu"))
    made = read(tmp_path / "out.mp4")

    def error(x: np.ndarray, truth: np.ndarray) -> float:
        return float(np.square(x.astype(float) - truth).mean())

    for i in range(3):
        truth, blend = picture(6.0 * i + 3), picture(6.0 * i) / 2 + picture(6.0 * i + 6) / 2
        assert error(made[2 * i + 1], truth) < 0.4 * error(blend, truth)


@pytest.mark.gpu
@pytest.mark.weights
def test_gpu_agrees_with_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    from stages.models import rife

    path = fetched("rife-hdv3")
    frames = [picture(6.0 * i) for i in range(2)]
    made = [Interpolator(rife.load(path, d), Fraction(2)).between(*frames, [0.5])[0] for d in ("cpu", "cuda")]
    assert np.abs(made[0].astype(int) - made[1]).mean() < 0.5
