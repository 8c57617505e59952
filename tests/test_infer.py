"""infer with random weights: what it writes, where it writes, and what it must leave alone."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stages import infer
from stages.errors import InputError, UsageError
from stages.faces import FaceConfig, locate_face, mask, paste
from stages.media.audio import audio_seconds, read_audio, write_wav
from stages.media.feed import pingpong
from stages.media.probe import probe
from stages.media.video import VideoReader, VideoWriter
from stages.runtime import Reporter, Runtime
from tests.small import make_model

CONFIG = infer.Config(steps=1, lossless=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("infer") / "model")


@pytest.fixture(scope="module")
def speech(made_clip, tmp_path_factory) -> Path:
    """Half a second of the made clip's sound."""
    path = tmp_path_factory.mktemp("infer-sound") / "speech.wav"
    write_wav(path, read_audio(made_clip)[:8000])
    return path


def outside(frame: np.ndarray, align: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that the mask does not reach."""
    white = np.full((128, 128, 3), 255, np.uint8)
    return paste(np.zeros_like(frame), white, align, mask(128)).max(-1) == 0


@pytest.mark.parametrize("rate", ["24000/1001", "24", "25", "30000/1001", "30", "50", "60"])
def test_every_pixel_outside_the_mask_is_the_sources_and_length_is_the_sounds(made_clip, speech, model, tmp_path, rate):
    reference = tmp_path / "reference.mp4"
    with VideoWriter(reference, fps=Fraction(rate), size=(320, 320), crf=12) as out:
        for frame in VideoReader(made_clip, frames=10):  # shorter than the sound: it must turn round
            out.write(frame)
    infer.run(CONFIG, infer.Inputs(speech, reference, model), tmp_path / "out.mp4", Runtime())
    source, made = list(VideoReader(reference)), list(VideoReader(tmp_path / "out.mp4"))
    fps = Fraction(rate)
    assert probe(tmp_path / "out.mp4").video.fps == fps
    assert abs(len(made) / fps - Fraction(1, 2)) <= 1 / fps and len(made) > len(source)
    track = locate_face(iter(source), float(fps), FaceConfig(), Reporter())
    changed = 0
    for frame, k in zip(made, pingpong(len(source), len(made))):
        where = outside(source[k], track.align[k])
        assert np.array_equal(frame[where], source[k][where])  # PSNR outside the mask: infinite
        changed += int((frame != source[k]).any())
    assert changed == len(made)


def test_the_report_beside_the_video_tells_what_was_done(made_clip, speech, model, tmp_path):
    report = infer.run(infer.Config(steps=1), infer.Inputs(speech, made_clip, model), tmp_path / "a b'c.mp4", Runtime())
    told = json.loads((tmp_path / "a b'c.json").read_text())
    assert told == json.loads(json.dumps(report.facts))
    assert told["frames"] == 12 and told["coverage"] == 1.0 and told["frames_passed_through"] == [] and told["settings"]["seed"] == 0
    info = probe(tmp_path / "a b'c.mp4")
    assert info.audio.sample_rate == 16_000 and (info.video.width, info.video.height) == (320, 320)
    assert abs(audio_seconds(tmp_path / "a b'c.mp4") - 0.5) < 0.1


def test_same_seed_same_frames_whatever_the_batch(made_clip, speech, model, tmp_path):
    def frames(name, **settings):
        config = infer.Config(**({"steps": 2, "lossless": True} | settings))
        infer.run(config, infer.Inputs(speech, made_clip, model), tmp_path / name, Runtime())
        return np.stack(list(VideoReader(tmp_path / name)))

    one = frames("a.mp4", batch=1)
    assert np.abs(one.astype(int) - frames("b.mp4", batch=5)).max() <= 2  # a batch may round otherwise
    assert np.array_equal(one, frames("c.mp4", batch=1))
    assert not np.array_equal(one, frames("d.mp4", seed=1))
    assert not np.array_equal(one, frames("e.mp4", reference="progressive"))


def test_frames_without_a_face_pass_through_and_are_listed(made_clip, speech, model, tmp_path):
    reference = tmp_path / "gone.mp4"
    with VideoWriter(reference, fps=Fraction(25), size=(320, 320), lossless=True) as out:
        for i, frame in enumerate(VideoReader(made_clip, frames=16)):
            out.write(frame if i < 5 else np.full_like(frame, 80))
    report = infer.run(CONFIG, infer.Inputs(speech, reference, model), tmp_path / "out.mp4", Runtime())
    assert report.facts["frames_passed_through"] == [[5, 11]] and 0.4 < report.facts["coverage"] < 0.45
    assert all((f == 80).all() for f in list(VideoReader(tmp_path / "out.mp4"))[5:12])


def test_a_photo_speaks(made_clip, speech, model, tmp_path):
    from PIL import Image

    frame = next(iter(VideoReader(made_clip)))
    Image.fromarray(frame).save(tmp_path / "photo.png")
    report = infer.run(CONFIG, infer.Inputs(speech, tmp_path / "photo.png", model), tmp_path / "out.mkv", Runtime())
    assert report.facts["frames"] == 12 and report.facts["fps"] == "25/1"
    made = list(VideoReader(tmp_path / "out.mkv"))
    assert len(made) == 12 and (made[0] == frame).any() and (made[0] != frame).any()


def test_frames_artifact_instead_of_a_video(made_clip, speech, model, tmp_path):
    report = infer.run(infer.Config(steps=1), infer.Inputs(speech, made_clip, model), tmp_path / "frames", Runtime())
    assert report.done == 1 and len(list((tmp_path / "frames").glob("clips/*/frames/*.png"))) == 12
    assert infer.run(infer.Config(steps=1), infer.Inputs(speech, made_clip, model), tmp_path / "frames", Runtime()).skipped == 1


def test_outputs_that_cannot_be_are_refused_before_any_work(made_clip, speech, model, tmp_path):
    with pytest.raises(UsageError, match="would overwrite"):
        infer.run(CONFIG, infer.Inputs(speech, made_clip, model), made_clip, Runtime())
    with pytest.raises(UsageError, match="cannot write .avi"):
        infer.run(CONFIG, infer.Inputs(speech, made_clip, model), tmp_path / "out.avi", Runtime())


def test_without_a_face_or_sound_nothing_is_written(made_clip, speech, model, tmp_path):
    nobody = tmp_path / "nobody.mp4"
    with VideoWriter(nobody, fps=Fraction(25), size=(160, 120)) as out:
        for _ in range(10):
            out.write(np.full((120, 160, 3), 99, np.uint8))
    with pytest.raises(InputError, match="nobody.mp4: no face found"):
        infer.run(CONFIG, infer.Inputs(speech, nobody, model), tmp_path / "out.mp4", Runtime())
    with pytest.raises(InputError, match="no audio track"):
        infer.run(CONFIG, infer.Inputs(nobody, made_clip, model), tmp_path / "out.mp4", Runtime())
    write_wav(tmp_path / "blip.wav", np.zeros(200, np.int16))
    with pytest.raises(InputError, match="blip.wav"):
        infer.run(CONFIG, infer.Inputs(tmp_path / "blip.wav", made_clip, model), tmp_path / "out.mp4", Runtime())
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob(".*"))


def test_ranges():
    assert infer.ranges(np.array([1, 2, 3, 7, 9, 10])) == [[1, 3], [7, 7], [9, 10]] and infer.ranges(np.array([], int)) == []
