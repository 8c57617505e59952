"""Faces: detection, 68 landmarks, tracking across cuts, the canonical crop, its mask, and paste-back."""

from stages.faces.align import TEMPLATE, apply, condition_points, crop, paste, scale_of, shade
from stages.faces.jaw import reaches, within
from stages.faces.lips import LIPS, habits, lip_shape, mouth_points, still_habits
from stages.faces.mask import MaskKind, feathered, mask, pasted, window
from stages.faces.pose import apart, choose_references, lips_apart, moved_mouth, turn_to, turned, turning
from stages.faces.track import FILLED, FOUND, LOST, FaceConfig, FaceTrack, locate_face

__all__ = [
    "FILLED", "FOUND", "LIPS", "LOST", "TEMPLATE", "FaceConfig", "FaceTrack", "MaskKind", "apart", "apply", "choose_references",
    "condition_points", "crop", "feathered", "habits", "lip_shape", "lips_apart", "locate_face", "mask", "mouth_points",
    "moved_mouth", "paste", "pasted", "reaches", "scale_of", "shade", "still_habits", "turn_to", "turned", "turning", "window", "within",
]  # fmt: skip
