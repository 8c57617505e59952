"""What the lips are to do: heard in the sound, in the way of the person who is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from stages.dubbing.reference import Reference
from stages.dubbing.speech import Speech
from stages.faces import habits, lip_shape, still_habits
from stages.faces.lips import OPENS
from stages.faces.track import smooth_gaussian

if TYPE_CHECKING:
    from stages.models.denoiser import Denoiser

SEEN_SECONDS = 2.0
"""Film that it takes to know a person's lips."""
SMOOTH_SECONDS = 0.025
"""Deviation of the Gaussian that takes the jitter out of what was heard: lips are slower."""
LIVELIER, CLOSING = 1.2, 1.4
"""What is heard of lips moves 0.7 times as far as they do, as any regression is drawn to the mean, and closes them too seldom: how much
further they move, and how much further where they close. On 54 films heard by networks that know other people, lips so close in 46 % of
the frames where the true ones are closed, with 1.0 for both in 26 %, and with 1.25, for the same distance to the true ones, in 40 %."""
SILENCE = 0.01
"""Loudness, as a share of the sound's loud parts, below which nobody speaks (-40 dB),"""
SILENCE_LEVEL = 33.0
"""and that of sound without any loud part (-60 dB of full scale)."""
SILENCE_SECONDS = 0.6
"""Shorter pauses belong to the speech: in 56 such of 54 films lips stay as open as usual in the middle (0.97 of the way from rest to
the mean, quartiles 0.6 and 1.2), in eight longer ones they are nearly at rest (0.3)."""
RESTING_SECONDS = 0.06
"""Deviation of the Gaussian by which the lips come to rest."""
BATCH = 256


class Lips:
    """The lips' shape in each output frame: `shapes` (T, 4) f32, in crop half-sides."""

    def __init__(self, model: Denoiser, reference: Reference, speech: Speech, gain: float = 1.0):
        fps = float(speech.fps)
        own = person(reference, model.lip_habits.float().cpu().numpy())  # (3, 4)
        heard = smooth_gaussian(listen(model, speech), SMOOTH_SECONDS * fps)  # (T, 4)
        shapes = as_told(own, heard, gain)
        rest = smooth_gaussian(silent(speech.loudness, fps)[:, None].astype(np.float32), RESTING_SECONDS * fps)  # (T, 1)
        shapes = shapes * (1 - rest) + own[2] * rest
        shapes[:, 0] = np.maximum(shapes[:, 0], 0)  # lips do not pass through each other
        self.shapes = shapes.astype(np.float32)


def person(reference: Reference, everybody: np.ndarray) -> np.ndarray:
    """The habits (3, 4) of the person in the film or photo."""
    frames = np.flatnonzero(reference.usable)
    shapes = lip_shape(reference.track.align[frames], reference.track.landmarks[frames])
    if len(frames) < SEEN_SECONDS * reference.feed.fps:
        return still_habits(np.median(shapes, axis=0), everybody)
    return habits(shapes, everybody)


@torch.no_grad()
def listen(model: Denoiser, speech: Speech) -> np.ndarray:
    """The lips in the sound (T, 4) f32, in deviations from a person's mean."""
    device, dtype = model.audio_mean.device, model.audio_mean.dtype
    parts = np.array_split(np.arange(speech.frames), speech.frames // BATCH + 1)
    return np.concatenate([model.listen(torch.from_numpy(speech.windows(p)).to(device, dtype)).float().cpu().numpy() for p in parts])


def as_told(own: np.ndarray, heard: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """Lips (T, 4) of a person with habits `own` (3, 4) for what is `heard` (T, 4) of them."""
    further = np.where(OPENS & (heard < 0), CLOSING, LIVELIER)
    return own[0] + gain * further * own[1] * heard


def silent(loudness: np.ndarray, fps: float) -> np.ndarray:
    """Frames (T,) bool in a stretch where nobody speaks."""
    loud = float(np.percentile(loudness, 95))
    quiet = loudness < max(SILENCE * loud, SILENCE_LEVEL)
    length = max(1, round(SILENCE_SECONDS * fps))
    kernel = np.ones((length, 1), np.uint8)
    return cv2.morphologyEx(quiet.astype(np.uint8)[:, None], cv2.MORPH_OPEN, kernel, borderType=cv2.BORDER_REPLICATE)[:, 0] > 0
