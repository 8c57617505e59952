"""The standing rows: videos made from the truth itself, so that a table shows its floor and its ceiling.

ground_truth    the truth against itself
autoencoder     its mouth through the model's first stage and back
copy_baseline   the mouth of another frame of the same film, in a like pose and 60 or more away, aligned and pasted in
turned_copy     the same, bent to the pose as difftalk bends its references: a harder copy to beat, on request
wrong_audio     the model, driven by another clip's sound: what looks in sync here has leaked from the picture
silence         the model, driven by nothing: mouths that open here have leaked too (KeySync's test)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.faces import LIPS, LOST, choose_references, condition_points, crop, feathered, paste, turn_to
from stages.media.audio import write_wav
from stages.media.feed import open_feed
from stages.media.probe import probe
from stages.media.video import VideoReader, VideoWriter
from stages.runtime import Runtime

if TYPE_CHECKING:
    from stages.diffusion.render import Renderer
    from stages.faces import FaceTrack

Frames = Iterator[tuple[np.ndarray, np.ndarray]]
"""(generated, true) frames."""
AWAY_SECONDS = 2.4
"""How far a copied mouth lies from its frame: the release's 60 frames at 25 fps."""
BATCH = 8


def ground_truth(truth: Iterable[np.ndarray]) -> Frames:
    """The truth against itself."""
    for frame in truth:
        yield frame, frame


def copy_baseline(
    truth: Path, frames: Iterable[np.ndarray], track: FaceTrack, fps: Fraction, resolution: int, *, turned: bool = False
) -> Frames:
    """`frames` with the mouths of other frames of the same film `truth`, which is read once more. Frames without a face stay.

    A mouth lies where its crop does, aligned by eyes and nose; `turned` bends it to the frame's pose as well.
    """
    usable = track.status != LOST
    points = condition_points(track.align, track.landmarks)
    gap = min(round(AWAY_SECONDS * fps), max(1, len(usable) // 3))  # a short film has nothing far away
    blind = np.zeros((len(usable), LIPS), np.float32)  # chosen by pose alone: nothing of the mouth is looked at
    chosen = choose_references(points, usable, gap, blind)
    wanted = set(chosen[usable].tolist())
    shown = {k: crop(f, track.align[k], resolution) for k, f in enumerate(VideoReader(truth)) if k in wanted}
    alpha = feathered(resolution)
    for k, frame in enumerate(frames):
        if not usable[k]:
            yield frame, frame
            continue
        mouth = shown[int(chosen[k])]
        if turned:
            mouth = turn_to(mouth, points[chosen[k]], points[k])
        yield paste(frame, mouth, track.align[k], alpha), frame


def reconstruction(renderer: Renderer, frames: Iterable[np.ndarray], track: FaceTrack) -> Frames:
    """`frames` whose mouths went through the first stage and back. Frames without a face stay."""
    batch: list[np.ndarray] = []

    def made(first: int) -> Frames:
        places = [i for i in range(len(batch)) if track.status[first + i] != LOST]
        out = list(batch)
        if places:
            crops = np.stack([crop(batch[i], track.align[first + i], renderer.resolution) for i in places])
            z = renderer.encode(renderer.pictures(crops))
            again = renderer.decode(z, renderer.crop(z))
            for i, mouth in zip(places, again, strict=True):
                out[i] = paste(batch[i], mouth, track.align[first + i], renderer.alpha)
        yield from zip(out, batch, strict=True)

    first = 0
    for frame in frames:
        batch.append(frame)
        if len(batch) == BATCH:
            yield from made(first)
            first, batch = first + len(batch), []
    yield from made(first)


def driven(
    model: tuple[Renderer, dict[str, Any], str],
    truth: Path,
    frames: Iterable[np.ndarray],
    track: FaceTrack,
    sound: np.ndarray,
    folder: Path,
) -> Frames:
    """`frames` of the film `truth` as the model draws them when it hears `sound` (n,) i16 at 16 kHz, for as long as that is.

    `folder` takes temporary files. Raises InputError where the face is lost for all of that time.
    """
    from stages.dubbing.job import Clock, Drawing, Job
    from stages.dubbing.plan import make_plan
    from stages.dubbing.reference import Reference
    from stages.dubbing.speech import Speech

    renderer, described, _ = model
    with tempfile.TemporaryDirectory(dir=folder, prefix=".row-") as temp:
        place = Path(temp)
        write_wav(place / "sound.wav", sound)
        feed = open_feed(truth)
        reference = Reference(truth, "", feed, track, len(track.status), max_turn=0.4)
        speech = Speech(described, place / "sound.wav", probe(place / "sound.wav"), feed.fps, None, Runtime(device=str(renderer.device)))
        plan = make_plan(reference, speech.frames, speech.loudness, feed.fps)
        job = Job(Drawing(**described.get("sampling", {})), renderer, reference, speech, plan, Clock())
        with VideoWriter(place / "row.mp4", fps=feed.fps, size=feed.size, lossless=True, preset="ultrafast") as sink:
            for a, b in plan.segments:
                job.render(a, b, sink, place, _Quiet())
        yield from zip(VideoReader(place / "row.mp4"), frames, strict=False)


class _Quiet:
    def advance(self, n: float = 1) -> None: ...
    def note(self, text: str) -> None: ...


def other_sound(own: np.ndarray, other: np.ndarray | None, count: int) -> np.ndarray:
    """`count` samples of another clip's sound, over again where it is shorter; without another, its own from the middle on."""
    wrong = np.roll(own, -(len(own) // 2)) if other is None or not len(other) else other
    return np.resize(wrong, count) if len(wrong) else np.zeros(count, np.int16)

