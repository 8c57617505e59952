"""preprocess: videos -> clips of canonical face crops, landmarks, transforms and speech (DESIGN, walk 1).

A clip's folder holds, for its T usable frames:
    crops.npy      (T, R, R, 3) u8      canonical crops
    landmarks.npy  (T, 68, 2)   f32     source pixels, smoothed
    align.npy      (T, 2, 3)    f32     source pixels -> unit template
    frames.npy     (T,)         i32     which frame of the clip's timeline each one is
    segment.npy    (T,)         i32     unbroken run (one shot, no lost frame) that it belongs to
    identity.npy   (128,)       f32     embedding of the person
    speech.wav                          16 kHz mono, the whole timeline; absent for a silent clip
    sheet.jpg                           contact sheet
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from stages.artifacts import Clip, Draft, Input, Store, Unit, Weight, digest_json, new_array, run_units
from stages.artifacts.read import read_clip
from stages.errors import InputError, UsageError
from stages.faces.detect import LandmarkTool
from stages.media.audio import read_audio, write_wav
from stages.media.probe import MediaInfo, probe
from stages.media.sources import Source, find_sources
from stages.media.video import VideoReader
from stages.runtime import Needs, Report, Reporter, Runtime
from stages.shapes import SAMPLE_RATE

if TYPE_CHECKING:
    from stages.faces.detect import FaceFinder

CODE = 2  # 2: landmarks' half pixel of dlib's scaled picture
NEEDS = Needs(cpus=1)
READERS = 8
"""Sources read at once before the clips are made: a disk of many machines answers slowly, but many."""

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the clips depend on."""

    resolution: int = 256
    """Side of the canonical crop in pixels."""
    landmarks: LandmarkTool = "dlib"
    """Landmark tool: dlib (weights come with the installation) or face-alignment (the paper's, downloads once)."""
    face: int = 0
    """Whose face: 0 the most prominent, 1 the next, and so on, as listed in clip.json."""
    max_gap: float = 0.4
    """Seconds without a find that are bridged by interpolation; longer ones split the clip."""
    min_seconds: float = 0.4
    """Unbroken runs shorter than this are left out."""
    allow_silent: bool = False
    """Keep clips that have no audio track (they can train the first stage only)."""
    val_share: float = 0.1
    """Share of identities held out for validation."""
    test_share: float = 0.0
    """Share of identities held out for tests."""
    split_seed: int = 0
    """Which identities are held out."""

    def __post_init__(self) -> None:
        if self.resolution % 64 or not 64 <= self.resolution <= 1024:
            raise UsageError(f"--resolution {self.resolution}: must be a multiple of 64 between 64 and 1024")
        if self.face < 0:
            raise UsageError(f"--face {self.face}: must be 0 or more")
        if self.val_share < 0 or self.test_share < 0 or self.val_share + self.test_share >= 1:
            raise UsageError("--val-share and --test-share: must be at least 0 and together below 1")


UNIT_CONFIG = ("resolution", "landmarks", "face", "max_gap", "min_seconds", "allow_silent")
"""What one clip depends on; the split concerns the artifact only."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to make one clip."""

    source: Source
    media: MediaInfo | None
    config: Config


def run(config: Config, inputs: Sequence[Path], out: Path, runtime: Runtime) -> Report:
    """Make the clips artifact `out` from video files and folders.

    Raises InputError when no video is there at all; a clip that cannot be used is recorded in failures.jsonl.
    """
    sources = find_sources([Path(p) for p in inputs])
    weights = _weights(config, runtime)
    with Store(
        out, kind="clips", stage="preprocess", code=CODE, config=config, runtime=runtime, weights=weights, unit_config=UNIT_CONFIG
    ) as store:
        mine = [source for source in sources if store.is_mine(_share(source))]
        paths = list(dict.fromkeys(source.path for source in mine))
        digests = dict(zip(paths, _at_once(store.digests.digest, paths, "read sources", runtime.reporter), strict=True))
        todo = store.plan([_unit(source, digests[source.path], config) for source in mine])
        todo = _at_once(_with_media, todo, "probe", runtime.reporter)
        run_units(store, todo, make_clip, title="preprocess", unit="s of video", size=_seconds, needs=NEEDS)
        return store.seal(facts=lambda ids: split_facts([read_clip(store.units / id) for id in ids], config))


def _weights(config: Config, runtime: Runtime) -> list[Weight]:
    from stages import weights

    names = ["dlib-68", "dlib-resnet"]
    found = [weights.describe(name) for name in names]
    extra = [Weight("face-alignment", "2DFAN4, fetched by face-alignment", "BSD-3-Clause")]
    return [Weight(w.name, w.sha256, w.licence) for w in found] + (extra if config.landmarks == "face-alignment" else [])


def _at_once(work: Callable[[T], S], items: Sequence[T], title: str, reporter: Reporter) -> list[S]:
    """`work` of every item, in order; several wait for the disk at once."""
    done: list[S] = []
    with reporter.progress(title, len(items), "files") as bar, ThreadPoolExecutor(READERS) as pool:
        results: Iterable[S] = pool.map(work, items)
        for result in results:
            done.append(result)
            bar.advance(1)
    return done


def _share(source: Source) -> str:
    """By its name as it was given, so that a shard need not read the sources of others."""
    return f"{source.path} from {source.start}"


def _unit(source: Source, digest: str, config: Config) -> Unit:
    part = [] if source.seconds is None else [Input("part", "interval", digest_json([source.start, source.seconds, source.box]))]
    # A stem may hold anything; an id is a folder's name on any system.
    stem = re.sub(r"[^\w.+-]+", "_", source.stem).strip("._")[:80] or "clip"
    inputs = (Input("video", "file", digest), *part)
    return Unit(f"{stem}-{digest[:8]}", inputs, Job(source, None, config), str(source.path.name), _share(source))


def _with_media(unit: Unit) -> Unit:
    job: Job = unit.payload
    try:
        media = probe(job.source.path)
    except InputError:
        return unit  # told by make_clip, where it is recorded
    return replace(unit, payload=replace(job, media=media))


def _seconds(unit: Unit) -> float:
    job: Job = unit.payload
    return job.source.seconds or (job.media.seconds if job.media and job.media.seconds else 1.0)


# -- one clip


@functools.lru_cache(maxsize=1)
def _finder(tool: LandmarkTool) -> FaceFinder:
    """Read once a process: its 122 MB take a second, as long as a short clip."""
    from stages.faces.detect import make_finder

    return make_finder(tool)


def make_clip(job: Job, draft: Draft, tick: Callable[[float], None]) -> None:
    """Build one clip in draft.path. Raises InputError when the source cannot be used, saying why."""
    from stages.faces import FaceConfig, locate_face

    source, config = job.source, job.config
    media = job.media or probe(source.path)
    if media.video is None:
        raise InputError(f"{source.path.name}: no video stream; give a file with pictures")
    if media.audio is None and not config.allow_silent:
        raise InputError(f"{source.path.name}: no audio track; --allow-silent keeps it for the first stage")
    fps = media.video.fps
    reader = VideoReader(
        source.path,
        info=media,
        start_seconds=source.start,
        frames=None if source.seconds is None else math.ceil(source.seconds * fps),
    )
    half = 0.5 / float(fps)  # each of the two passes is half of the work
    faces = FaceConfig(landmarks=config.landmarks, face=config.face, max_gap=config.max_gap)
    track = locate_face(_pictures(reader, source, lambda: tick(half)), float(fps), faces, Reporter(), _finder(config.landmarks))
    total, warnings = reader.frames_read, [f"damaged: {reader.warning}"] if reader.warning else []
    heard = _speech(source, media, draft.path, total / fps)
    limit = total if heard is None else min(total, math.floor(heard * fps + 0.5))
    if heard is not None and abs(heard - total / fps) > 0.2:
        warnings.append(f"sound lasts {heard:.2f} s, picture {float(total / fps):.2f} s: the common part is kept")
    if media.video.variable:
        warnings.append(f"variable frame rate: read at a constant {fps}")
    minimum = max(2, round(config.min_seconds * fps))
    runs = [(s, min(e, limit)) for s, e in track.segments(minimum) if min(e, limit) - s >= minimum]
    if not runs:
        have = f"{total} frames" + ("" if heard is None else f", {heard:.2f} s of sound")
        what = "a face" if heard is None else "a face and sound"
        raise InputError(f"{source.path.name}: no run of {minimum} frames with {what} ({have}); --min-seconds sets how long a run must be")
    keep = np.concatenate([np.arange(s, e) for s, e in runs]).astype(np.int32)
    np.save(draft.path / "frames.npy", keep)
    np.save(draft.path / "segment.npy", np.concatenate([np.full(e - s, i) for i, (s, e) in enumerate(runs)]).astype(np.int32))
    np.save(draft.path / "landmarks.npy", track.landmarks[keep])
    np.save(draft.path / "align.npy", track.align[keep])
    np.save(draft.path / "identity.npy", track.embedding)
    _write_crops(draft.path, _pictures(reader, source, lambda: tick(half)), keep, track.align[keep], config.resolution)
    _write_sheet(draft.path, track.landmarks[keep], track.align[keep])
    draft.facts |= {
        "source": source.path.name,
        "start": source.start,
        "fps": f"{fps.numerator}/{fps.denominator}",
        "size": [reader.shape[1], reader.shape[0]] if source.box is None else list(source.box[2:]),
        "frames_total": total,
        "frames": len(keep),
        "lost": int((track.status == 0).sum()),
        "filled": int((track.status == 2).sum()),
        "shots": int(track.shot.max()) + 1,
        "segments": len(runs),
        "seconds_sound": None if heard is None else round(heard, 3),
        "people": track.people,
        "warnings": warnings,
    }


def _pictures(reader: VideoReader, source: Source, done: Callable[[], None]) -> Iterator[np.ndarray]:
    x, y, w, h = source.box or (0, 0, reader.shape[1], reader.shape[0])
    if x + w > reader.shape[1] or y + h > reader.shape[0] or min(x, y) < 0:
        raise InputError(f"{source.path.name}: the annotated window {source.box} leaves the {reader.shape[1]}x{reader.shape[0]} picture")
    for frame in reader:
        yield frame[y : y + h, x : x + w]
        done()


def _speech(source: Source, media: MediaInfo, folder: Path, picture_seconds: float) -> float | None:
    """Write speech.wav and return its length in seconds; None for a silent clip."""
    if media.audio is None:
        return None
    limit = None if source.seconds is None else float(picture_seconds)
    samples = read_audio(source.path, info=media, start_seconds=source.start, seconds=limit)
    write_wav(folder / "speech.wav", samples)
    return len(samples) / SAMPLE_RATE


def _write_crops(folder: Path, frames: Iterator[np.ndarray], keep: np.ndarray, align: np.ndarray, resolution: int) -> None:
    from stages.faces import crop

    shape = (len(keep), resolution, resolution, 3)
    crops = new_array(folder / "crops.npy", np.uint8, shape)
    k = 0
    for i, frame in enumerate(itertools.islice(frames, int(keep[-1]) + 1)):
        if i == keep[k]:
            crops[k] = crop(frame, align[k], resolution)
            k += 1
    assert k == len(keep), (k, len(keep))
    crops.flush()


def _write_sheet(folder: Path, landmarks: np.ndarray, align: np.ndarray) -> None:
    """sheet.jpg: sixteen crops over the clip with landmarks and the mask's edge, for people to look at."""
    import cv2

    from stages.faces import apply, mask

    crops = np.load(folder / "crops.npy", mmap_mode="r")
    side = 192
    edge = np.abs(np.diff(mask(side), axis=0, prepend=0)) + np.abs(np.diff(mask(side), axis=1, prepend=0)) > 0
    tiles = []
    for i in np.linspace(0, len(crops) - 1, 16).astype(int):
        tile = cv2.resize(np.asarray(crops[i]), (side, side), interpolation=cv2.INTER_AREA)
        tile[edge] = (255, 200, 0)
        for x, y in apply(align[i], landmarks[i]) * side:
            cv2.circle(tile, (round(float(x)), round(float(y))), 1, (0, 255, 0), -1)
        tiles.append(tile)
    rows = [np.hstack(tiles[r : r + 8]) for r in (0, 8)]
    cv2.imwrite(str(folder / "sheet.jpg"), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


# -- the split


def split_facts(clips: list[Clip], config: Config) -> dict[str, dict[str, str]]:
    """Identity and split of every clip of the artifact: {"identity": {id: name}, "split": {id: train | val | test}}.

    Clips of one source, or whose faces are closer than 0.5, are one identity and never on two sides of the split.
    """
    faces = [np.load(c.path / "identity.npy") for c in clips]
    sources = [next(i["digest"] for i in c.key["inputs"] if i["role"] == "video") for c in clips]
    group = list(range(len(clips)))

    def find(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    for i, j in itertools.combinations(range(len(clips)), 2):
        if sources[i] == sources[j] or np.linalg.norm(faces[i] - faces[j]) < 0.5:
            a, b = sorted((find(i), find(j)))
            group[b] = a
    names = {c.id: clips[find(i)].id for i, c in enumerate(clips)}
    order = sorted(set(names.values()), key=lambda name: digest_json([config.split_seed, name]))
    test = round(config.test_share * len(order))
    # A validation identity as soon as there are three, or training would be blind.
    val = max(round(config.val_share * len(order)), int(len(order) >= 3 and config.val_share > 0))
    side = {name: "test" if k < test else "val" if k < test + val else "train" for k, name in enumerate(order)}
    return {"identity": names, "split": {id: side[name] for id, name in names.items()}}
