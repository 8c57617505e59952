"""Finding faces and their 68 landmarks in one picture: dlib by default, face-alignment (the paper's tool) on request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np

from stages.errors import WeightsError
from stages.faces.align import anchors
from stages.shapes import MOUTH

LandmarkTool = Literal["dlib", "face-alignment"]
DETECT_SIZES = (480, 960)
"""Short side in pixels that whole frames are searched at; the larger only when the smaller shows no face.
dlib's HOG sees faces from 80 px up: a sixth, then a twelfth of the picture's short side."""
MIN_SCORE = 0.15
"""HOG margin below which a find is taken for texture (true faces in speech: 0.8 to 3)."""


@dataclass(frozen=True)
class Face:
    """One face in one frame, in source pixels."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    score: float
    landmarks: np.ndarray
    """(68, 2) f32."""

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]


class FaceFinder(Protocol):
    """What the tracker needs of a detector."""

    weights: tuple[str, ...]

    def find(self, frame: np.ndarray) -> list[Face]:
        """All plausible faces in (H, W, 3) u8, best first."""
        ...

    def follow(self, frame: np.ndarray, last: Face) -> Face | None:
        """The face near where it was in the frame before, or None."""
        ...

    def embed(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """Identity embedding (128,) f32: below about 0.5 apart is the same person."""
        ...

    def points(self, frame: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
        """(68, 2) f32 landmarks of the face that is known to be in `box`; nothing is searched."""
        ...


class DlibFinder:
    """HOG detector and 68-point shape predictor (dlib; weights of face_recognition_models, CC0 / iBUG 300-W data)."""

    weights = ("dlib-68", "dlib-resnet")

    def __init__(self, locate: Callable[[str], object]):
        """`locate` gives the path of a weight file by name (stages.weights.locate)."""
        import dlib

        self._dlib = dlib
        self._detector = dlib.get_frontal_face_detector()
        self._shape = dlib.shape_predictor(str(locate("dlib-68")))
        self._resnet_path = str(locate("dlib-resnet"))
        self._resnet = None

    def find(self, frame: np.ndarray) -> list[Face]:
        h, w = frame.shape[:2]
        for short in DETECT_SIZES:
            scale = min(short / min(h, w), 2.0)
            faces = self._detect(frame, (0, 0, w, h), scale)
            if faces:
                return faces
        return []

    def follow(self, frame: np.ndarray, last: Face) -> Face | None:
        x0, y0, x1, y1 = last.box
        size, cx, cy = max(x1 - x0, y1 - y0), (x0 + x1) / 2, (y0 + y1) / 2
        region = (cx - size, cy - size, cx + size, cy + size)
        for face_pixels in (140.0, 200.0):
            near = [f for f in self._detect(frame, region, face_pixels / size) if overlap(f.box, last.box) > 0.3]
            if near:
                return max(near, key=lambda f: overlap(f.box, last.box))
        return None

    def _detect(self, frame: np.ndarray, region: tuple[float, float, float, float], scale: float) -> list[Face]:
        h, w = frame.shape[:2]
        x0, y0 = max(0, int(region[0])), max(0, int(region[1]))
        x1, y1 = min(w, int(region[2])), min(h, int(region[3]))
        if x1 - x0 < 20 or y1 - y0 < 20:
            return []
        part = frame[y0:y1, x0:x1]
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(part, size, interpolation=method)
        k = np.array([size[0] / part.shape[1], size[1] / part.shape[0]])
        boxes, scores, _ = self._detector.run(small, 0, MIN_SCORE)
        faces = []
        for box, score in zip(boxes, scores, strict=True):
            corners = np.array([[box.left(), box.top()], [box.right(), box.bottom()]])
            points, corners = ((p + 0.5) / k - 0.5 + (x0, y0) for p in (self._landmarks(small, box), corners))
            if plausible(points):
                faces.append(Face(tuple(corners.reshape(4).tolist()), float(score), points.astype(np.float32)))
        return sorted(faces, key=lambda f: -f.score * f.height)

    def _landmarks(self, image: np.ndarray, box: object) -> np.ndarray:
        # The predictor starts from the box, whose size jumps between pyramid levels: a mean over three boxes halves
        # the jitter (measured on still speakers).
        out = []
        for grow in (-0.04, 0.0, 0.04):
            d = round(grow * box.width())  # type: ignore[attr-defined]
            r = self._dlib.rectangle(box.left() - d, box.top() - d, box.right() + d, box.bottom() + d)  # type: ignore[attr-defined]
            shape = self._shape(image, r)
            out.append([(p.x, p.y) for p in shape.parts()])
        return np.mean(np.array(out, np.float64), axis=0) + 0.0

    def embed(self, frame: np.ndarray, face: Face) -> np.ndarray:
        return _embed(self, frame, face.landmarks)

    def points(self, frame: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
        return self._landmarks(frame, self._dlib.rectangle(*(round(v) for v in box))).astype(np.float32)


def _embed(finder: DlibFinder, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    dlib = finder._dlib
    if finder._resnet is None:
        finder._resnet = dlib.face_recognition_model_v1(finder._resnet_path)
    low, high = landmarks.min(0), landmarks.max(0)
    pad = 0.5 * (high - low).max()
    h, w = frame.shape[:2]
    x0, y0 = np.clip((low - pad).astype(int), 0, (w - 2, h - 2))
    x1, y1 = np.clip((high + pad).astype(int), (x0 + 2, y0 + 2), (w, h))
    part = np.ascontiguousarray(frame[y0:y1, x0:x1])
    points = dlib.points([dlib.point(int(round(x - x0)), int(round(y - y0))) for x, y in landmarks])
    box = dlib.rectangle(*(int(v) for v in (low[0] - x0, low[1] - y0, high[0] - x0, high[1] - y0)))
    return np.array(finder._resnet.compute_face_descriptor(part, dlib.full_object_detection(box, points)), np.float32)


class FaceAlignmentFinder:
    """FAN landmarks (face-alignment, the paper's tool chain); boxes and identities still come from dlib.

    Its weights are downloaded from their author's site on first use. Raises WeightsError when that fails.
    """

    def __init__(self, locate: Callable[[str], object], device: str = "cpu"):
        self._dlib_finder = DlibFinder(locate)
        self.weights = (*DlibFinder.weights, "face-alignment")
        import face_alignment

        try:
            kind = face_alignment.LandmarksType
            two_d = getattr(kind, "TWO_D", None) or kind._2D
            # our own boxes are passed in, so its detector (a second download) is the one that needs no weights
            self._fan = face_alignment.FaceAlignment(two_d, device=device, face_detector="folder")
        except Exception as error:  # urllib, torch.hub and requests each raise their own kind
            raise WeightsError(
                f"--landmarks face-alignment: its weights cannot be had ({error}); connect to the internet once, or use "
                "--landmarks dlib, whose weights come with the installation"
            ) from error

    def find(self, frame: np.ndarray) -> list[Face]:
        return [self._refine(frame, face) for face in self._dlib_finder.find(frame)]

    def follow(self, frame: np.ndarray, last: Face) -> Face | None:
        face = self._dlib_finder.follow(frame, last)
        return face and self._refine(frame, face)

    def embed(self, frame: np.ndarray, face: Face) -> np.ndarray:
        return self._dlib_finder.embed(frame, face)

    def points(self, frame: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
        return self._refine(frame, Face(box, 1.0, self._dlib_finder.points(frame, box))).landmarks

    def _refine(self, frame: np.ndarray, face: Face) -> Face:
        points = self._fan.get_landmarks_from_image(frame, detected_faces=[np.array([*face.box, face.score])])
        if not points:
            return face
        return Face(face.box, face.score, np.asarray(points[0], np.float32)[:, :2])


def make_finder(tool: LandmarkTool, device: str = "cpu") -> FaceFinder:
    """The finder of that name."""
    from stages import weights

    makers: dict[str, Callable[[], FaceFinder]] = {
        "dlib": lambda: DlibFinder(weights.locate),
        "face-alignment": lambda: FaceAlignmentFinder(weights.locate, device),
    }
    return makers[tool]()


def box_around(landmarks: np.ndarray) -> tuple[float, float, float, float]:
    """About the box that dlib's detector draws around a face with these landmarks (68, 2)."""
    low, high = landmarks.min(0), landmarks.max(0)
    width = high[0] - low[0]
    return float(low[0]), float(high[1] - 1.1 * width), float(high[0]), float(high[1] + 0.02 * width)


def plausible(landmarks: np.ndarray) -> bool:
    """Whether (68, 2) points form a face that can be aligned: upright enough, eyes apart, mouth below them."""
    eye_a, eye_b, nose = anchors(landmarks)
    mouth = landmarks[MOUTH].mean(0)
    across = eye_b - eye_a
    distance = float(np.hypot(*across))
    if distance < 8:
        return False
    right = across / distance
    down = np.array([-right[1], right[0]])
    middle = (eye_a + eye_b) / 2
    to_nose, to_mouth = (nose - middle) @ down / distance, (mouth - middle) @ down / distance
    sideways = abs((nose - middle) @ right) / distance  # 0 frontal; about 0.5 where one eye hides behind the nose
    return bool(right[0] > 0.5 and 0.3 < to_nose < 1.6 and to_nose < to_mouth < 2.6 and sideways < 0.5)


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    inter = w * h
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)

