"""Following one person: a made detector stands for dlib, so that every situation can be staged."""

import numpy as np
import pytest

from stages.errors import InputError
from stages.faces.detect import Face, plausible
from stages.faces.track import FILLED, FOUND, LOST, FaceConfig, locate_face
from stages.runtime import Reporter

UPRIGHT = np.zeros((68, 2), np.float32)
UPRIGHT[36:42], UPRIGHT[42:48], UPRIGHT[31:36], UPRIGHT[48:68] = (-20, -15), (20, -15), (0, 18), (0, 40)


class Stage:
    """frames[i] lists the faces that can be seen there: (who, x, y, size)."""

    weights = ()

    def __init__(self, frames):
        self.frames, self.at = frames, -1

    def pictures(self):
        rng = np.random.default_rng(0)
        scene = {}
        for at, (shot, _) in enumerate(self.frames):
            self.at = at
            yield scene.setdefault(shot, rng.integers(0, 255, (9, 16, 3)).astype(np.uint8).repeat(20, 0).repeat(20, 1))

    def _faces(self):
        return [
            (who, Face((x - s, y - s, x + s, y + s), 2.0, (UPRIGHT * s / 50 + (x, y)).astype(np.float32)))
            for who, x, y, s in self.frames[self.at][1]
        ]

    def find(self, frame):
        return [f for _, f in self._faces()]

    def follow(self, frame, last):
        near = [f for _, f in self._faces() if abs(f.box[0] - last.box[0]) < 20]
        return near[0] if near else None

    def embed(self, frame, face):
        who = next(w for w, f in self._faces() if f.box == face.box)
        out = np.zeros(128, np.float32)
        out[who] = 1
        return out


def run(frames, **config):
    stage = Stage(frames)
    return locate_face(stage.pictures(), 25.0, FaceConfig(**config), Reporter(), finder=stage)


A, B = (0, 160, 90, 40), (1, 60, 90, 25)


def test_a_still_face_is_found_everywhere():
    track = run([(0, [A])] * 20)
    assert (track.status == FOUND).all() and track.segments() == [(0, 20)]
    assert np.allclose(track.landmarks[7], track.landmarks[0], atol=1e-3)


def test_a_short_gap_is_bridged_and_a_long_one_is_lost():
    track = run([(0, [A])] * 20 + [(0, [])] * 4 + [(0, [A])] * 20 + [(0, [])] * 15 + [(0, [A])] * 20)
    assert (track.status[20:24] == FILLED).all()
    assert (track.status[44:59] == LOST).all() and np.isnan(track.align[50]).all()
    assert track.segments(5) == [(0, 44), (track.segments(5)[1][0], 79)]


def test_a_cut_ends_a_segment_and_the_person_is_found_again_by_identity():
    elsewhere = (0, 220, 90, 40)
    track = run([(0, [A, B])] * 20 + [(1, [elsewhere, B])] * 20)
    assert track.segments() == [(0, 20), (20, 40)]
    assert abs(float(track.landmarks[30, :, 0].mean()) - 220) < 25
    assert len(track.people) == 2 and track.people[0]["frames"] == 40


def test_the_most_prominent_person_is_chosen_unless_another_is_asked_for():
    frames = [(0, [B, A])] * 20
    assert abs(run(frames).landmarks[5, :, 0].mean() - 160) < 20
    assert abs(run(frames, face=1).landmarks[5, :, 0].mean() - 60) < 20
    with pytest.raises(InputError, match="only 2 face"):
        run(frames, face=2)


def test_no_face_at_all_says_what_is_needed():
    with pytest.raises(InputError, match="no face found"):
        run([(0, [])] * 10)


def test_three_frames_are_enough_and_one_is():
    assert (run([(0, [A])] * 3).status == FOUND).all()
    assert (run([(0, [A])]).status == FOUND).all()


def test_smoothing_has_no_lag():
    xs = 160 + 20 * np.sin(np.arange(60) / 8)
    track = run([(0, [(0, float(x), 90, 40)]) for x in xs])
    centre = track.landmarks[:, 30, 0]
    lags = [np.corrcoef(xs[5 + k : 55 + k], centre[5:55])[0, 1] for k in (-2, -1, 0, 1, 2)]
    assert int(np.argmax(lags)) == 2


def test_implausible_landmarks_are_no_face():
    face = UPRIGHT + 100
    assert plausible(face)
    assert not plausible(face[:, ::-1])  # lying on its side
    upside = face.copy()
    upside[:, 1] *= -1
    assert not plausible(upside)
    assert not plausible(face * 0.01)
