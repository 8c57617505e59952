"""evaluate: generated videos against the true ones, frame by frame (DESIGN, walk 7).

Each pair is scored on three pictures: the whole frame, the canonical face crop, and the mouth. Face and mouth are found in
the true video only and cut out of both at the same place. A pair's folder holds

    per_frame.npy  (T, M) f32   metric M of compared frame T, NaN where the truth shows no face; names in clip.json

and the artifact, for all of them together, scores.json and per_clip.jsonl.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stages import weights
from stages.artifacts import (
    DigestCache,
    Draft,
    Input,
    Store,
    Unit,
    Weight,
    digest_json,
    remove_tree,
    run_units,
    write_atomic,
    write_json,
)
from stages.artifacts.read import read_clip
from stages.errors import InputError, UsageError
from stages.media.pairs import VideoPair, find_pairs
from stages.media.video import VideoReader
from stages.metrics import pairs, statistics
from stages.metrics.mouth import SIDE, mouth_square
from stages.metrics.pairs import Counts, describe, pair_frames, resize_to
from stages.metrics.scorer import CROP, FRAME, METRICS, MOUTH, PSNR_CAP, Scorer, result_names
from stages.runtime import Needs, Report, Reporter, Runtime

if TYPE_CHECKING:
    from stages.faces import FaceTrack
    from stages.faces.detect import FaceFinder, LandmarkTool
    from stages.metrics.lpips import Lpips

CODE = 1
METHOD = "generated"
LPIPS_FILES = ("lpips-alex-trunk", "lpips-alex-heads")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the scores depend on."""

    metrics: str = ",".join(METRICS)
    """What to measure, separated by commas: psnr, ssim, lpips."""
    resolution: int = 256
    """Side in pixels of the face crop that is compared."""
    mouth_resolution: int = 128
    """Side in pixels of the mouth crop that is compared."""
    landmarks: Literal["dlib", "face-alignment"] = "dlib"
    """Landmark tool: dlib (weights come with the installation) or face-alignment (the paper's, downloads once)."""
    face: int = 0
    """Whose face in the true video: 0 the most prominent, 1 the next, and so on."""

    def __post_init__(self) -> None:
        asked = {name.strip().lower() for name in self.metrics.split(",")} - {""}
        if not asked or not asked <= set(METRICS):
            raise UsageError(f"--metrics {self.metrics}: choose from {', '.join(METRICS)}, separated by commas")
        # One spelling for one choice, so that another order is no other configuration.
        object.__setattr__(self, "metrics", ",".join(name for name in METRICS if name in asked))
        for name in ("resolution", "mouth_resolution"):
            if not 64 <= getattr(self, name) <= 1024:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be between 64 and 1024")
        if self.face < 0:
            raise UsageError(f"--face {self.face}: must be 0 or more")

    @property
    def chosen(self) -> tuple[str, ...]:
        return tuple(self.metrics.split(","))


@dataclass(frozen=True)
class Inputs:
    """Two videos, or two folders of videos that are paired by path below the folder, else by stem."""

    generated: Path
    truth: Path


@dataclass(frozen=True)
class Job:
    """What a worker needs to score one pair."""

    pair: VideoPair
    config: Config
    lpips: tuple[Path, ...] = ()
    device: str = "cpu"
    threads: int | None = None
    """Processor threads to use; None leaves them as they are."""


def run(config: Config, inputs: Inputs, out: Path, runtime: Runtime) -> Report:
    """Score every pair and write the scores artifact `out`.

    Raises InputError when there is nothing to compare, WeightsError when a metric's weights cannot be had. A pair
    that cannot be scored (no partner, not readable, no face) is recorded in failures.jsonl and the rest go on.
    """
    found = find_pairs(Path(inputs.generated), Path(inputs.truth))
    used = _weights(config)
    with Store(out, kind="scores", stage="evaluate", code=CODE, config=config, runtime=runtime, weights=used) as store:
        todo = store.plan([_unit(pair, config, store.digests) for pair in found])
        if runtime.dry_run:
            return store.seal()
        todo = _prepare(todo, config, runtime)
        needs = Needs(cpus=1, gpus=0.25 if any(unit.payload.device.startswith("cuda") for unit in todo) else 0.0)
        run_units(store, todo, score_pair, title="evaluate", unit="clips", size=lambda unit: 1.0, needs=needs)
        if runtime.shard:
            return store.seal()
        _forget_others(store)
        scores = _collect(store, config)
        write_json(store.root / "scores.json", scores)
        with write_atomic(store.root / "per_clip.jsonl") as part, part.open("w", encoding="utf-8") as f:
            f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in scores["clips"])
        report = store.seal(facts={"methods": scores["methods"], "settings": scores["settings"]})
        report.facts |= {"methods": scores["methods"], "scores": str(store.root / "scores.json")}
        return report


# -- what a run needs


def _unit(pair: VideoPair, config: Config, digests: DigestCache) -> Unit:
    """The pair's place is its name, not its content: a video made anew replaces the old one's scores."""
    inputs: list[Input] = []
    for role, path in (("generated", pair.generated), ("truth", pair.truth)):
        try:
            inputs += [Input(role, "file", digests.digest(path))] if path else []
        except OSError as error:
            pair = replace(pair, problem=f"{pair.name}: its {role} video cannot be read ({error.strerror})")
            inputs.append(Input(role, "file", "unreadable"))
    if pair.problem:
        inputs.append(Input("problem", "text", pair.problem))
    stem = re.sub(r"[^\w.+-]+", "_", pair.name.rsplit("/", 1)[-1]).strip("._")[:80] or "clip"
    return Unit(f"{stem}-{digest_json(pair.name)[:8]}", tuple(inputs), Job(pair, config), pair.name)


def _names(config: Config) -> list[str]:
    return ["dlib-68", "dlib-resnet", *(LPIPS_FILES if "lpips" in config.chosen else ())]


def _weights(config: Config) -> list[Weight]:
    found = [weights.describe(name) for name in _names(config)]
    extra = [Weight("face-alignment", "2DFAN4, fetched by face-alignment", "BSD-3-Clause")]
    return [Weight(w.name, w.sha256, w.licence) for w in found] + (extra if config.landmarks == "face-alignment" else [])


def _prepare(todo: list[Unit], config: Config, runtime: Runtime) -> list[Unit]:
    """Give each pair what it runs with. Weights are fetched here, once, and only when there is something to score."""
    if all(unit.payload.pair.problem for unit in todo):
        return todo
    paths = {name: weights.locate(name, offline=runtime.offline, reporter=runtime.reporter) for name in _names(config)}
    lpips = tuple(paths[name] for name in LPIPS_FILES if name in paths)
    device = str(runtime.torch_device()) if lpips else "cpu"
    workers = min(runtime.workers, len(todo))
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
    return [replace(u, payload=replace(u.payload, lpips=lpips, device=device, threads=threads)) for u in todo]


@functools.lru_cache(maxsize=1)
def _lpips(files: tuple[Path, ...], device: str) -> Lpips:
    from stages.metrics.lpips import Lpips

    return Lpips(*files).to(device)


@functools.lru_cache(maxsize=1)
def _finder(tool: LandmarkTool) -> FaceFinder:
    from stages.faces.detect import make_finder

    return make_finder(tool)  # reading its 122 MB takes a second, as long as a short clip


# -- one pair


def score_pair(job: Job, draft: Draft, tick: Callable[[float], None]) -> None:
    """Score one pair into draft.path. Raises InputError when it cannot be scored, saying why."""
    from stages.faces import LOST

    pair, config = job.pair, job.config
    if pair.problem:
        raise InputError(pair.problem)
    assert pair.generated and pair.truth, pair
    _limit_threads(job)
    generated, truth = VideoReader(pair.generated), VideoReader(pair.truth)
    track = find_face(truth, config, tick)
    scorer = Scorer(config.chosen, _lpips(job.lpips, job.device) if job.lpips else None)
    counts, rates = Counts(), (generated.info.fps, truth.info.fps)
    frames = _ticking(truth, len(track.status), tick)
    for i, (fake, true) in enumerate(pair_frames(generated, frames, rates, counts)):
        scorer.add(pictures(fake, true, track.landmarks[i], track.align[i], config))
    faces = int((track.status[: counts.used] != LOST).sum())
    if not faces:
        raise InputError(f"{pair.name}: no face in the {counts.used} frames that could be compared")
    table = scorer.table()  # (T, M)
    np.save(draft.path / "per_frame.npy", table.astype(np.float32))
    draft.facts |= {
        "files": {"generated": pair.generated.name, "truth": pair.truth.name},
        "metrics": {name: float(mean) for name, mean in zip(scorer.names, np.nanmean(table, axis=0), strict=True)},
        "columns": list(scorer.names),
        "frames": {"generated": counts.generated, "truth": counts.truth, "used": counts.used, "face": faces},
        "notes": _notes(generated, truth, counts, faces),
    }


def _notes(generated: VideoReader, truth: VideoReader, counts: Counts, faces: int) -> list[str]:
    """What a reader should know of this clip's figures; empty when all went plainly."""
    sizes = [(reader.info.width, reader.info.height) for reader in (generated, truth)]
    notes = describe((sizes[0], sizes[1]), (generated.info.fps, truth.info.fps), counts)
    for reader, side in ((generated, "generated"), (truth, "truth")):
        notes += [f"{side}: damaged: {reader.warning}"] if reader.warning else []
        notes += [f"{side}: variable frame rate, read at a constant {reader.info.fps}"] if reader.info.variable else []
    if faces < counts.used:
        notes.append(f"face: {counts.used - faces} of {counts.used} frames show none; only the whole frame is scored there")
    return notes


def find_face(reader: VideoReader, config: Config, tick: Callable[[float], None]) -> FaceTrack:
    """The chosen face through the whole of `reader`. Raises InputError when there is none."""
    from stages.faces import FaceConfig, locate_face

    expected = max(1, round((reader.media.seconds or 1.0) * float(reader.info.fps)))
    faces = FaceConfig(landmarks=config.landmarks, face=config.face)
    try:
        frames = _ticking(reader, expected, tick)
        return locate_face(frames, float(reader.info.fps), faces, Reporter(), _finder(config.landmarks))
    except InputError as error:
        raise InputError(f"{reader.path.name}: {error}", detail=error.detail) from error


def _ticking(reader: VideoReader, total: int, tick: Callable[[float], None]) -> Iterator[np.ndarray]:
    """The reader's frames; each of the two passes over the truth is half of a clip's work."""
    for frame in reader:
        yield frame
        tick(0.5 / total)


def _limit_threads(job: Job) -> None:
    """Several workers share the processors; alone, a process may use them all."""
    if job.threads is None:
        return
    import cv2

    cv2.setNumThreads(job.threads)
    if job.lpips:
        import torch

        torch.set_num_threads(job.threads)


def pictures(
    fake: np.ndarray, true: np.ndarray, landmarks: np.ndarray, align: np.ndarray, config: Config
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The pictures to compare of one pair of frames (H, W, 3) u8: whole, face and mouth, each cut by the truth's face.

    landmarks (68, 2) and align (2, 3) are NaN where the truth shows no face: then the whole frame alone.
    """
    from stages.faces import crop

    fake = resize_to(fake, true)
    found = {FRAME: (fake, true)}
    if np.isfinite(align).all():
        for prefix, matrix, side in (
            (CROP, align, config.resolution),
            (MOUTH, mouth_square(landmarks), config.mouth_resolution),
        ):
            found[prefix] = crop(fake, matrix, side), crop(true, matrix, side)
    return found


# -- all pairs together


def _forget_others(store: Store) -> None:
    """A pair that is not asked for any more must not stay in the means."""
    for id in set(store.failures) - set(store.planned):
        del store.failures[id]
    for record in sorted(store.units.glob("*/clip.json")):
        if record.parent.name not in store.planned:
            store.log(f"drop {record.parent.name}: no longer among the videos to compare")
            remove_tree(record.parent)


def _collect(store: Store, config: Config) -> dict[str, Any]:
    """The content of scores.json."""
    rows: list[dict[str, Any]] = []
    for id, unit in sorted(store.planned.items()):
        row: dict[str, Any] = {"clip": id, "method": METHOD, "name": unit.source}
        if id in store.report.failed:
            rows.append({**row, "error": store.report.failed[id]})
            continue
        facts = read_clip(store.units / id).facts
        for note in facts["notes"]:
            store.log(f"{unit.source}: {note}")
        rows.append({**row, **{key: facts[key] for key in ("metrics", "frames", "notes", "files")}})
    scored = [row["metrics"] for row in rows if "metrics" in row]
    means = {name: statistics.summary([m[name] for m in scored]) for name in result_names(config.chosen)} if scored else {}
    return {"methods": {METHOD: means}, "clips": rows, "settings": settings(config)}


def settings(config: Config) -> dict[str, Any]:
    """How the figures came about, in words: what a reader needs to compare them with others."""
    from stages.metrics import quality

    return {
        "metrics": list(result_names(config.chosen)),
        "resolution": config.resolution,
        "mouth_resolution": config.mouth_resolution,
        "landmarks": config.landmarks,
        "regions": {
            "face": "canonical face crop, placed by the truth's eyes and nose",
            "mouth": f"square of {SIDE} eye distances around the truth's mouth points, turned with its eyes",
            "frame": "whole picture",
        },
        "psnr": f"dB over all channels, mean over frames; each frame at most {PSNR_CAP:g}, which stands for equal ones",
        "ssim": f"Wang 2004: {quality.SSIM_WINDOW} px Gaussian window of sigma {quality.SSIM_SIGMA}, "
        f"K1 {quality.SSIM_K1}, K2 {quality.SSIM_K2}, range 255, RGB channels apart",
        "lpips_alex": "LPIPS v0.1, AlexNet",
        "alignment": {"time": pairs.TIME_RULE, "size": pairs.SIZE_RULE},
        "ci95": f"percentile bootstrap over clips, {statistics.RESAMPLES} resamples, seed {statistics.SEED}; null for one",
    }
