"""One clip's scorer: identity by dlib, landmarks read alike on both sides, and results only of what was there."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data

from stages.faces import FaceTrack
from stages.faces.align import anchors, similarity
from stages.faces.detect import DlibFinder
from stages.metrics.clip import ClipScorer, Tools
from stages.weights import locate
from tests.fetched import fetched


@pytest.fixture(scope="module")
def finder() -> DlibFinder:
    fetched("dlib-68")
    fetched("dlib-resnet")
    return DlibFinder(locate)


def picture(shift: int = 0) -> np.ndarray:
    return np.ascontiguousarray(np.roll(skimage.data.astronaut()[:300, 80:400], shift, axis=1))


def track_of(frames: list[np.ndarray], finder: DlibFinder) -> FaceTrack:
    points = np.stack([finder.find(frame)[0].landmarks for frame in frames])
    count = len(frames)
    align = similarity(anchors(points))
    return FaceTrack(points, align, np.ones(count, np.uint8), np.zeros(count, np.int32), np.zeros(128, np.float32))


def score(fakes: list[np.ndarray], truth: list[np.ndarray], finder: DlibFinder, chosen: tuple[str, ...]) -> ClipScorer:
    scorer = ClipScorer(chosen, track_of(truth, finder), Tools(finder=finder), resolution=256, mouth_resolution=128)
    for fake, true in zip(fakes, truth, strict=True):
        scorer.add(fake, true)
    return scorer


def test_the_identity_distance_is_dlibs_own(finder: DlibFinder) -> None:
    import dlib

    truth = picture()
    fake = cv2.GaussianBlur(truth, (0, 0), 2.5)
    found = score([fake], [truth], finder, ("identity",)).metrics(None)
    points = track_of([truth], finder).landmarks[0]
    shape = dlib.full_object_detection(
        dlib.rectangle(0, 0, 1, 1), dlib.points([dlib.point(int(round(x)), int(round(y))) for x, y in points])
    )
    net = dlib.face_recognition_model_v1(str(locate("dlib-resnet")))
    own = [np.array(net.compute_face_descriptor(frame, shape)) for frame in (fake, truth)]
    # 0.01: the finder hands dlib the face's part of the frame, which dlib then halves from another pixel on.
    assert found == {"identity_distance": pytest.approx(np.linalg.norm(own[0] - own[1]), abs=0.01)}
    assert found["identity_distance"] > 0.05


def test_the_truth_itself_is_perfect_whether_or_not_it_is_the_same_array(finder: DlibFinder) -> None:
    truth = [picture(), picture(2), picture(4)]
    chosen = ("psnr", "ssim", "mouth", "identity", "jitter")
    same, equal = (score(fakes, truth, finder, chosen) for fakes in (truth, [f.copy() for f in truth]))
    assert same.metrics(None) == pytest.approx(equal.metrics(None))
    assert same.metrics(None).items() >= {
        "psnr": 100.0, "frame_ssim": 1.0, "mouth_landmark_distance": 0.0, "identity_distance": 0.0, "jitter": 1.0, "flicker": 0.0,
    }.items()  # fmt: skip
    assert same.strip().shape == (320, 480, 3) and same.table().shape == (3, len(same.columns))


def test_a_smile_painted_on_costs_in_the_landmarks(finder: DlibFinder) -> None:
    truth = [picture(i) for i in range(3)]
    track = track_of(truth, finder)
    fakes = []
    for frame, points in zip(truth, track.landmarks, strict=True):
        low, high = points[48:68].min(0).astype(int) - 4, points[48:68].max(0).astype(int) + 4
        fake = frame.copy()  # the mouth, 6 pixels lower
        fake[low[1] + 6 : high[1] + 6, low[0] : high[0]] = frame[low[1] : high[1], low[0] : high[0]]
        fakes.append(fake)
    moved, same = (score(f, truth, finder, ("mouth",)).metrics(None)["mouth_landmark_distance"] for f in (fakes, truth))
    assert same == 0 and 0.02 < moved < 0.4


def test_frames_that_are_looked_at_lie_among_those_that_come(finder: DlibFinder) -> None:
    truth = [picture(i) for i in range(6)]
    scorer = ClipScorer(("identity",), track_of(truth, finder), Tools(finder=finder), resolution=128, mouth_resolution=64, frames=2)
    for frame in truth[:2]:
        scorer.add(frame.copy(), frame)
    assert scorer.metrics(None)["identity_distance"] == pytest.approx(0, abs=1e-6) and scorer.strip().shape[1] == 2 * 160


def test_a_persons_changing_face_is_no_other_person_and_the_truth_is_looked_at_once(finder: DlibFinder, monkeypatch) -> None:
    """Descriptors are averaged over the clip before they are compared: frames that only trade places are the same face."""
    truth = [picture(), cv2.GaussianBlur(picture(), (0, 0), 2.5)]
    asked: list[np.ndarray] = []
    embed = finder.embed
    monkeypatch.setattr(finder, "embed", lambda frame, face: asked.append(frame) or embed(frame, face))
    track, known = track_of([truth[0], truth[0]], finder), {}
    for times in (4, 2):  # generated and true frames; then the generated alone
        asked.clear()
        scorer = ClipScorer(("identity",), track, Tools(finder=finder, known=known), resolution=128, mouth_resolution=64)
        for fake, true in zip(truth[::-1], truth, strict=True):
            scorer.add(fake, true)
        assert len(asked) == times
        assert scorer.metrics(None)["identity_distance"] == pytest.approx(0, abs=1e-6)
        assert scorer.table()[:, scorer.columns.index("identity_distance")].min() > 0.05
