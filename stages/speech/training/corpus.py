"""The corpus that the acoustic model learns from: shards of utterances as network input, letters, teacher features, lip shapes.

A shard is one .npz: utterances one after the other, each with several recordings (clean, then augmented) of the same
rows. Shards are independent of each other and named by what they hold, so that an interrupted build goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.files import write_atomic
from stages.errors import DiffTalkError, InputError
from stages.shapes import FEATURE_RATE, SAMPLE_RATE
from stages.speech.mfcc import mfcc_rows
from stages.speech.rows import HOP, fit_rows
from stages.speech.training.augment import augment, respeed
from stages.speech.training.voices import draw_voice, engines, letters, speak
from stages.speech.training.whisper import WhisperEncoder
from stages.training.order import generator

LIPS = ("inner opening", "outer opening", "width", "chin", "upper lip", "lower lip")
"""What a mouth's shape is reduced to, in source pixels; standardised per clip."""
LONGEST = 12 * SAMPLE_RATE
"""Samples in an utterance at most."""
SHORTEST = SAMPLE_RATE // 2
FASTEST = 30.0
"""Letters a second, at most: above it a transcript belongs to other sound."""


@dataclass
class Utterance:
    """Some seconds of one voice."""

    samples: np.ndarray
    """(n,) i16."""
    speaker: str
    text: str = ""
    """English letters; empty: unknown."""
    lips: np.ndarray | None = None
    """(R, 6) f32 at 50 Hz, nan where unseen."""
    held_out: bool = False


@dataclass
class Shard:
    """What one worker builds: a name and how to get its utterances."""

    name: str
    kind: str
    """synthetic, recorded or clips."""
    seed: int
    versions: int = 2
    """Recordings of each utterance: one clean, the others augmented."""
    speed: float = 1.0
    minutes: float = 10.0
    held_out: bool = False
    sentences: list[str] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Files: {path, speaker, text, stop, lips, fps, frames}."""


def build(shard: Shard, folder: Path, teacher: Path) -> Path:
    """Make one shard, unless it is there. Returns its path."""
    path = folder / f"{shard.name}.npz"
    if path.is_file():
        return path
    import torch

    torch.set_num_threads(1)
    encoder = _encoder(teacher)
    rng = generator(shard.seed, 1)
    utterances = list(_synthetic(shard) if shard.kind == "synthetic" else _recorded(shard))
    if not utterances:
        raise InputError(f"{shard.name}: no usable speech in {len(shard.sources)} files")
    mfcc: list[list[np.ndarray]] = [[] for _ in range(shard.versions)]
    features, lips, lines = [], [], []
    background = np.concatenate([u.samples for u in utterances[:: max(1, len(utterances) // 8)]])
    for u in utterances:
        rows = None
        for k in range(shard.versions):
            sound = u.samples if k == 0 else augment(u.samples, rng, background)
            x = mfcc_rows(sound).astype(np.float32)
            rows = len(x) if rows is None else rows
            assert len(x) == rows
            mfcc[k].append(x)
        target = encoder.features(u.samples)
        features.append(fit_rows(target, rows).astype(np.float16))
        lips.append(fit_rows(u.lips, rows).astype(np.float32) if u.lips is not None else np.full((rows, len(LIPS)), np.nan, np.float32))
        lines.append({"rows": rows, "speaker": u.speaker, "text": u.text, "held_out": u.held_out})
    with write_atomic(path) as part, part.open("wb") as f:
        np.savez(
            f, teacher=np.concatenate(features), lips=np.concatenate(lips), utterances=np.frombuffer(json.dumps(lines).encode(), np.uint8),
            **{f"mfcc{k}": np.concatenate(m) for k, m in enumerate(mfcc)},
        )  # fmt: skip
    return path


_ENCODERS: dict[Path, WhisperEncoder] = {}


def _encoder(path: Path) -> WhisperEncoder:
    if path not in _ENCODERS:
        _ENCODERS[path] = WhisperEncoder(path, layers=2)
    return _ENCODERS[path]


def _synthetic(shard: Shard) -> Iterator[Utterance]:
    rng, found = generator(shard.seed, 0), engines()
    done, failures = 0.0, 0
    while done < shard.minutes * 60:
        voice = draw_voice(rng, found, held_out=shard.held_out)
        words = shard.sentences[int(rng.integers(len(shard.sentences)))]
        try:
            x = speak(words, voice)
        except DiffTalkError:
            failures += 1
            if failures > 50:
                raise
            continue
        if not SHORTEST <= len(x) <= LONGEST:
            continue
        # A synthesiser's silence is digital and always equally long; a recording's is not.
        x = np.pad(x, [int(n) for n in rng.integers(0, SAMPLE_RATE // 3, 2)])
        done += len(x) / SAMPLE_RATE
        yield Utterance(x, f"{voice.engine}:{voice.name}", letters(words) if voice.english else "", held_out=shard.held_out)


def _recorded(shard: Shard) -> Iterator[Utterance]:
    for source in shard.sources:
        try:
            x, start, total = read_part(source)
        except DiffTalkError:
            continue
        lips = lip_shapes(Path(source["lips"]), total)[start // HOP :] if source.get("lips") else None
        for a, b in cut(x):
            piece = x[a:b]
            shape = lips[a // HOP : -(-b // HOP)] if lips is not None else None
            if shard.speed != 1:
                piece = respeed(piece, shard.speed)
                if shape is not None:
                    at = np.minimum(np.arange(len(piece) // HOP + 1) * shard.speed, len(shape) - 1)
                    shape = shape[np.round(at).astype(int)]
            if SHORTEST <= len(piece) <= LONGEST + SAMPLE_RATE * 3:
                whole = b - a == len(x)
                text = letters(source["text"]) if source.get("text") and whole else transcript(source, a, b)
                if len(text) > FASTEST * len(piece) / SAMPLE_RATE:
                    text = ""
                yield Utterance(piece, source["speaker"], text, shape, shard.held_out)


def read_part(source: dict[str, Any]) -> tuple[np.ndarray, int, int]:
    """The part of a source that counts: (n,) i16, the sample that it starts at, and how many the whole has."""
    from stages.media.audio import read_audio

    x = read_audio(Path(source["path"]))
    start = int(source.get("start", 0.0) * FEATURE_RATE) * HOP
    return x[start : int(source["stop"] * SAMPLE_RATE) if source.get("stop") else None], start, len(x)


def transcript(source: dict[str, Any], a: int, b: int) -> str:
    """Letters of the samples a .. b from the source's list of [start seconds, stop seconds, text], when one matches."""
    for start, stop, text in source.get("transcripts", ()):
        if abs(start * SAMPLE_RATE - a) < HOP and abs(stop * SAMPLE_RATE - b) < HOP:
            return letters(text)
    return ""


def cut(samples: np.ndarray) -> list[tuple[int, int]]:
    """Pieces of 5 .. 10 s, cut where it is quietest; what is shorter stays whole."""
    step = SAMPLE_RATE // 50
    n = len(samples) // step
    if n == 0:
        return []
    energy = (samples[: n * step].astype(np.float32).reshape(n, step) ** 2).mean(1)
    energy = np.convolve(energy, np.ones(9) / 9, "same")
    cuts, at = [0], 0
    while len(samples) - at > 10 * SAMPLE_RATE:
        lo, hi = at // step + 250, at // step + 500
        at = (lo + int(energy[lo:hi].argmin())) * step
        cuts.append(at)
    cuts.append(len(samples))
    return list(zip(cuts, cuts[1:]))


def lip_shapes(clip: Path, samples: int) -> np.ndarray:
    """A clip's mouth at 50 Hz: (R, 6) f32, standardised, nan where no face is stored. Reads landmarks.npy and frames.npy."""
    points = np.load(clip / "landmarks.npy").astype(np.float32)  # (T, 68, 2)
    frames = np.load(clip / "frames.npy")
    facts = json.loads((clip / "clip.json").read_text(encoding="utf-8"))["facts"]
    fps = _rate(facts["fps"])
    y = mouth(points)
    y = (y - y.mean(0)) / (y.std(0) + 1e-3)
    times = np.arange(samples // HOP + 1) / 50
    out = np.stack([np.interp(times, frames / fps, y[:, k]) for k in range(y.shape[1])], axis=1)
    near = np.abs(times[:, None] - (frames / fps)[None]).min(1)
    out[near > 1.5 / fps] = np.nan
    return out.astype(np.float32)


def mouth(points: np.ndarray) -> np.ndarray:
    """68 landmarks (T, 68, 2) f32 -> (T, 6) f32, the columns of LIPS in pixels."""

    def gap(a: int, b: int) -> np.ndarray:
        return np.linalg.norm(points[:, a] - points[:, b], axis=-1)

    inner = (gap(61, 67) + gap(62, 66) + gap(63, 65)) / 3
    nose = points[:, 33, 1]
    return np.stack([inner, gap(51, 57), gap(48, 54), points[:, 8, 1] - nose, points[:, 62, 1] - nose, points[:, 66, 1] - nose], axis=1)


def _rate(fps: str | float) -> float:
    from fractions import Fraction

    return float(Fraction(fps))
