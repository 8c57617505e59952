"""What is seen of an upload at once: the first frame with its faces, the mask and the landmarks; or what a recording holds."""

from __future__ import annotations

import base64
import functools
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages.errors import InputError
from stages.faces import FaceConfig, MaskKind, locate_face, paste, pasted
from stages.faces.align import anchors, similarity
from stages.faces.detect import Face, FaceFinder, make_finder
from stages.infer import open_sound
from stages.media.feed import open_feed
from stages.media.photo import is_photo
from stages.runtime import Reporter

MOST_SIDE = 900
"""Pixels of the longer side of the picture that is shown."""
SHOWN_FACES = 6
CHOSEN, OTHER, TINT = (255, 138, 61), (200, 200, 200), (64, 190, 255)


@functools.lru_cache(maxsize=1)
def finder() -> FaceFinder:
    """dlib's, read once: its weights take a second."""
    return make_finder("dlib")


def look_at_person(path: Path, chosen: int, kind: MaskKind, feather: float) -> dict[str, Any]:
    """`picture` (a data URI), `faces` [{x, y, height}] in shares of the picture, best first, `size`, and of a video `fps`.

    Raises InputError for what cannot be read, and for a photo without a face; a video's face may come later.
    """
    feed = open_feed(path)
    frames = feed.once()
    frame = next(iter(frames), None)
    if frame is None:
        raise InputError(f"{path}: no frame can be read")
    faces = finder().find(frame)[:SHOWN_FACES]
    if not faces and is_photo(path):
        try:
            locate_face([frame], float(feed.fps), FaceConfig(), Reporter(), finder())
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    height, width = frame.shape[:2]
    told: dict[str, Any] = {
        "picture": as_uri(draw(frame, faces, chosen, kind, feather)),
        "faces": [
            {"x": (f.box[0] + f.box[2]) / 2 / width, "y": (f.box[1] + f.box[3]) / 2 / height, "height": f.height / height}
            for f in faces
        ],
        "size": [width, height],
    }
    return told if is_photo(path) else told | {"fps": float(feed.fps)}


def draw(frame: np.ndarray, faces: list[Face], chosen: int, kind: MaskKind, feather: float) -> np.ndarray:
    """The frame (H, W, 3) u8, smaller, with every face's box and number, and the chosen one's landmarks and mask: (h, w, 3) u8."""
    scale = min(1.0, MOST_SIDE / max(frame.shape[:2]))
    if faces:
        face, side = faces[min(chosen, len(faces) - 1)], 256
        tint = np.broadcast_to(np.array(TINT, np.uint8), (side, side, 3))
        frame = paste(frame, tint, similarity(anchors(face.landmarks)), 0.45 * pasted(side, kind, feather))
    picture = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else frame.copy()
    line = max(2, round(max(picture.shape[:2]) / 300))
    for number, face in enumerate(faces):
        mine = face is faces[min(chosen, len(faces) - 1)]
        a, b, c, d = (round(v * scale) for v in face.box)
        cv2.rectangle(picture, (a, b), (c, d), CHOSEN if mine else OTHER, line, cv2.LINE_AA)
        if len(faces) > 1:
            at = (a, max(6 * line, b - 3 * line))
            cv2.putText(picture, str(number + 1), at, cv2.FONT_HERSHEY_SIMPLEX, 0.35 * line, CHOSEN if mine else OTHER, line, cv2.LINE_AA)
        for x, y in (face.landmarks * scale).round().astype(int) if mine else ():
            cv2.circle(picture, (int(x), int(y)), max(1, line - 1), (255, 255, 255), -1, cv2.LINE_AA)
    return picture


def as_uri(picture: np.ndarray) -> str:
    """(H, W, 3) u8 as a JPEG inside a link."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def look_at_sound(path: Path) -> dict[str, Any]:
    """`seconds`, `codec`, `sample_rate`, `channels`. Raises InputError without sound."""
    media = open_sound(path)
    assert media.audio
    sound = media.audio
    return {"seconds": media.seconds, "codec": sound.codec, "sample_rate": sound.sample_rate, "channels": sound.channels}


def nearest(people: list[dict[str, float]], x: float, y: float) -> int:
    """Which of a track's `people` is the one seen at (x, y), shares of the picture."""
    return min(range(len(people)), key=lambda i: (people[i]["x"] - x) ** 2 + (people[i]["y"] - y) ** 2)
