"""A hand before the mouth is told; speech, light and what is always there are not."""

import numpy as np

from stages.dubbing.occlusion import Occlusion
from stages.faces.mask import mask


def film(count=60, side=128):
    rng = np.random.default_rng(0)
    face = np.full((side, side, 3), (190, 150, 130), np.float32)
    face += rng.normal(0, 3, face.shape)
    frames = np.repeat(face[None], count, 0)
    for i in range(count):  # a mouth that opens
        half = int(2 + 8 * abs(np.sin(i)))
        frames[i, 87 - half : 87 + half, 48:80] = (60, 20, 20)
    return frames


def covered(frames):
    watch = Occlusion(mask(128))
    for i in range(0, len(frames), 8):
        part = np.clip(frames[i : i + 8], 0, 255).astype(np.uint8)
        watch.look(part, np.arange(i, i + len(part)))
    return watch.covered().tolist()


def test_nothing_is_told_of_speech_or_changing_light():
    assert covered(film()) == []
    light = film() * np.linspace(0.7, 1.1, 60)[:, None, None, None]
    assert covered(light) == []


def test_a_hand_is_told():
    frames = film()
    frames[20:26, 70:128, 20:70] = (90, 60, 50)
    assert covered(frames) == list(range(20, 26))


def test_few_frames_say_nothing():
    assert covered(film(5)) == []
