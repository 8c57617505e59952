"""Faces: detection, 68 landmarks, tracking across cuts, the canonical crop, its mask, and paste-back."""

from stages.faces.align import TEMPLATE, apply, condition_points, crop, paste, scale_of
from stages.faces.mask import MaskKind, feathered, mask, window
from stages.faces.track import FILLED, FOUND, LOST, FaceConfig, FaceTrack, locate_face

__all__ = [
    "FILLED", "FOUND", "LOST", "TEMPLATE", "FaceConfig", "FaceTrack", "MaskKind", "apply", "condition_points", "crop",
    "feathered", "locate_face", "mask", "paste", "scale_of", "window",
]  # fmt: skip
