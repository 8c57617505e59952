"""dlib's landmarks in pixels of the frame, whatever size its own picture had."""

import cv2
import numpy as np
import pytest

from stages.faces.detect import make_finder
from tests.made import photo


@pytest.mark.parametrize("times", [2, 3])
def test_landmarks_of_a_larger_copy_lie_on_the_same_places(times):
    frame, finder = photo(), make_finder("dlib")
    size = (times * frame.shape[1], times * frame.shape[0])
    large = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
    small, found = finder.find(frame)[0], finder.find(large)[0]
    followed = finder.follow(large, found)
    for face in (found, followed):
        back = (face.landmarks + 0.5) / times - 0.5  # centres of pixels
        assert np.abs((back - finder.follow(frame, small).landmarks).mean(0)).max() < 0.2
