"""extract-audio: the speech of every clip -> one window of acoustic features per stored frame (DESIGN, walk 2).

A clip's folder features/<id>/ holds, for the T frames that preprocess kept:
    audio.npy       (T, 16, F) f32   window k is centred on frame frames[k] of the clip
    neighbours.npy  (T, 8)     i32   which windows the temporal filter of window k sees; -1 (zeros) where there is none
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from stages.artifacts import Clip, Draft, Input, Store, Unit, Weight, new_array, read_artifact, run_units
from stages.errors import ArtifactError, DiffTalkError, InputError, UsageError
from stages.media.audio import read_audio
from stages.metrics.sync import SYNC_RATE
from stages.runtime import Needs, Report, Runtime
from stages.shapes import SAMPLE_RATE, WINDOW_ROWS
from stages.speech.encoder import Encoder, open_encoder
from stages.speech.graph import Output
from stages.speech.windows import stored_neighbours, windows_at

CODE = 1
NEEDS = Needs(cpus=1, gpus=0.25)

FEWEST_SECONDS, MOST_OFFSET, SURE = 2.0, 8, 0.05
"""Film that it takes to tell an offset, the largest that is believed (frames at 25 a second), and the least confidence."""

CHUNK_FRAMES = 2000
"""Windows written at once: a two-hour clip never lies in memory."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the features depend on."""

    encoder: Literal["deepspeech", "mel"] = "deepspeech"
    """Features of the sound: deepspeech (an acoustic model of its form; one ships) or mel (80 log-mel values)."""
    model: Path | None = None
    """Another acoustic model: DeepSpeech 0.1.0's own output_graph.pb, or an .onnx file of its inputs and outputs."""
    features: Output = "logits"
    """Of the acoustic model: logits (29 letters, as the paper) or hidden (the layer below)."""
    align_sound: bool = False
    """Undo how far a clip's sound and lips are apart, by the sync expert that ships: for training, where films cannot be trusted."""

    def __post_init__(self) -> None:
        if self.encoder == "mel" and self.model is not None:
            raise UsageError(f"--model {self.model}: the mel encoder takes no model; use --encoder deepspeech")
        if self.encoder == "mel" and self.features != "logits":
            raise UsageError(f"--features {self.features}: belongs to --encoder deepspeech")


UNIT_CONFIG = ("encoder", "features", "align_sound")
"""What one clip depends on; the model counts by its content (a weight), whatever its file is called."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to make one clip's features."""

    clip: Clip
    config: Config
    device: str
    threads: int
    weights: tuple[Weight, ...]


def run(config: Config, inputs: Path, out: Path | None, runtime: Runtime) -> Report:
    """Make the features artifact `out` (default: inputs/features) from the clips artifact `inputs`.

    Raises ArtifactError when there are no clips to read, InputError or UsageError when the encoder cannot be opened; a
    clip that cannot be used is recorded in failures.jsonl. Clips kept without sound are left out with a warning.
    """
    inputs = Path(inputs)
    clips = read_artifact(inputs, "clips")
    threads = runtime.threads_of_a_worker(NEEDS)
    # Before the store opens: a wrong model must not unseal anything.
    encoder = open_encoder(config.encoder, config.model, runtime, threads=threads, output=config.features)
    runtime.reporter.log(f"encoder {encoder.name}: {encoder.features} features at {encoder.rows_hz} Hz on {encoder.place}")
    silent = [id for id, clip in clips.clips.items() if not (clip.path / "speech.wav").exists()]
    if silent:
        runtime.reporter.warn(f"{len(silent)} clips have no sound and are left out: {', '.join(silent[:5])}")
    heard = [clip for id, clip in clips.clips.items() if id not in silent]
    if not heard:
        raise InputError(f"{inputs}: no clip with sound; see failures.jsonl there, then run `difftalk preprocess` again")
    job = functools.partial(Job, config=config, device=runtime.device, threads=threads, weights=encoder.weights)
    units = [Unit(clip.id, (Input("clip", "clips", clip.digest),), job(clip=clip)) for clip in heard]
    with Store(
        out or inputs / "features", kind="features", stage="extract-audio", code=CODE, config=config, runtime=runtime,
        weights=encoder.weights, unit_config=UNIT_CONFIG,
    ) as store:  # fmt: skip
        # An open model cannot be sent to another process: workers open their own, this process uses the one it has.
        task = make_features if runtime.elsewhere else functools.partial(make_features, encoder=encoder)
        run_units(store, store.plan(units), task, title="extract-audio", unit="frames", size=_frames, needs=NEEDS)
        facts = {"encoder": encoder.name, "features": encoder.features, "rows_hz": encoder.rows_hz, "window": WINDOW_ROWS}
        facts |= {"output": config.features} if encoder.name == "deepspeech" else {}
        return store.seal(facts=facts)


@functools.lru_cache(maxsize=1)
def _worker_encoder(config: Config, device: str, threads: int, weights: tuple[Weight, ...]) -> Encoder:
    """The encoder of a worker process, opened once for all its clips."""
    encoder = open_encoder(config.encoder, config.model, Runtime(device=device), threads=threads, output=config.features)
    if encoder.weights != weights:
        raise DiffTalkError(f"{config.model} was replaced during the run; run the same command again")
    return encoder


def _frames(unit: Unit) -> float:
    return float(unit.payload.clip.facts.get("frames_total", 1))


def make_features(job: Job, draft: Draft, tick: Callable[[float], None], encoder: Encoder | None = None) -> None:
    """Build one clip's features in draft.path. Raises DiffTalkError when the clip's folder is damaged."""
    fps, total, frames, samples = _read_clip(job.clip)
    encoder = encoder or _worker_encoder(job.config, job.device, job.threads, job.weights)
    rows = encoder.encode(samples)  # (R, F)
    assert rows.dtype == np.float32 and rows.shape[1] == encoder.features, (rows.dtype, rows.shape, encoder.features)
    offset = sound_offset(job.clip, frames, fps, samples) if job.config.align_sound else 0
    rows = shifted(rows, round(offset * encoder.rows_hz / SYNC_RATE))
    shape = (len(frames), WINDOW_ROWS, encoder.features)
    windows = new_array(draft.path / "audio.npy", np.float32, shape)
    for start in range(0, len(frames), CHUNK_FRAMES):
        part = slice(start, start + CHUNK_FRAMES)
        windows[part] = windows_at(rows, frames[part], fps)
    windows.flush()
    np.save(draft.path / "neighbours.npy", stored_neighbours(frames, total, fps))
    draft.facts |= {
        "encoder": encoder.name,
        "rows": len(rows),
        "features": encoder.features,
        "frames": len(frames),
        "seconds": round(len(samples) / SAMPLE_RATE, 3),
        **({"sound_offset": offset} if job.config.align_sound else {}),
    }


def sound_offset(clip: Clip, frames: np.ndarray, fps: Fraction, samples: np.ndarray) -> int:
    """Frames at 25 a second by which the sound comes before its lips; 0 where that cannot be told."""
    from stages.metrics.expert import embed, film_lips, load_expert
    from stages.metrics.sync import sync_score
    from stages.speech.mel import log_mel

    lips = film_lips(np.asarray(clip.array("align.npy")), np.asarray(clip.array("landmarks.npy")), frames, float(fps))
    rows = log_mel(samples)
    if min(np.isfinite(lips[:, 0]).sum(), len(rows) // 2) < FEWEST_SECONDS * SYNC_RATE:
        return 0
    score = sync_score(*embed(load_expert(), rows, lips))
    return round(score.offset) if abs(score.offset) <= MOST_OFFSET and score.confidence >= SURE else 0


def shifted(rows: np.ndarray, by: int) -> np.ndarray:
    """Rows (R, F) `by` rows later; what comes in is zero."""
    if not by:
        return rows
    moved = np.zeros_like(rows)
    source, place = (rows[:-by], moved[by:]) if by > 0 else (rows[-by:], moved[:by])
    place[:] = source
    return moved


def _read_clip(clip: Clip) -> tuple[Fraction, int, np.ndarray, np.ndarray]:
    """Frame rate, frames in the timeline, stored frames (T,) i32, and sound (n,) i16."""
    try:
        fps, total = Fraction(clip.facts["fps"]), int(clip.facts["frames_total"])
        frames = np.array(clip.array("frames.npy"))
        samples = read_audio(clip.path / "speech.wav")
    except (ArtifactError, InputError, KeyError, ValueError, ZeroDivisionError) as error:
        # Not the source's fault but the folder's: DiffTalkError, so that the next run looks again.
        raise DiffTalkError(f"clip {clip.id} is damaged ({error!s}); run `difftalk preprocess` again") from error
    if frames.ndim != 1 or not len(frames) or frames.min() < 0 or frames.max() >= total or (np.diff(frames) <= 0).any():
        raise DiffTalkError(
            f"clip {clip.id} is damaged (frames.npy is not a rising list of frames below {total}); run `difftalk preprocess` again"
        )
    return fps, total, frames, samples
