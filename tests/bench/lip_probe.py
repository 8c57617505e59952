"""How much of the mouth do acoustic features know? Ridge regression from a +-160 ms window to the lip opening, per clip.

    python -m tests.bench.lip_probe WORK [--model acoustic.onnx] [--whisper model.bin] [--last-third 10] [--whole NAME ...]

WORK is a clips artifact (`difftalk preprocess`). The `--last-third` longest clips count from two thirds of their length
on, which the shipped acoustic model never heard; clips whose name starts with a `--whole` word count whole, others do not.
Every feature set gets the same frames, folds and choice of ridge: blocked 5-fold, the penalty chosen inside each
training part, correlation with the opening inside each block, mean over the five.
"""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from pathlib import Path

import numpy as np

from stages.media.audio import read_audio
from stages.metrics.mouth import lip_opening
from stages.runtime import Runtime
from stages.shapes import SAMPLE_RATE
from stages.speech.encoder import open_encoder
from stages.speech.windows import windows_at

FOLDS = 5
PENALTIES = 10.0 ** np.arange(0, 7)
FEWEST = 40
"""Frames a clip needs for five folds to mean anything."""


def blocked_correlation(x: np.ndarray, y: np.ndarray, folds: int = FOLDS) -> float:
    """(T, D), (T,) -> correlation of prediction and truth within a block that the regression did not see, mean over blocks.

    Within, because a prediction's mean follows the other blocks' and so opposes its own: joined blocks of a few seconds
    correlate negatively even for useless features.
    """
    found = []
    for block in np.array_split(np.arange(len(y)), folds):
        rest = np.setdiff1d(np.arange(len(y)), block)
        inner = np.array_split(rest, folds - 1)
        errors = np.zeros(len(PENALTIES))
        for part in inner:
            other = np.setdiff1d(rest, part)
            errors += ((_ridge(x[other], y[other], x[part]) - y[part][None]) ** 2).sum(1)
        predicted = _ridge(x[rest], y[rest], x[block])[errors.argmin()]
        found.append(float(np.corrcoef(predicted, y[block])[0, 1]))
    return float(np.nan_to_num(found).mean())


def _ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predictions for every penalty: (P, T). In the dual, as there are more features than frames."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, new = (x - mean) / deviation, (new - mean) / deviation
    values, vectors = np.linalg.eigh(x @ x.T)
    cross = new @ x.T @ vectors
    target = vectors.T @ (y - y.mean())
    return np.stack([cross @ (target / (np.maximum(values, 0) + p)) + y.mean() for p in PENALTIES])


def correlation(rows: np.ndarray, frames: np.ndarray, fps: Fraction, opening: np.ndarray) -> float:
    """(R, F) feature rows at 50 Hz, frames (T,), opening (T,) -> correlation of prediction and truth."""
    windows = windows_at(rows.astype(np.float32), frames, fps)  # (T, 16, F)
    x = windows.reshape(len(windows), -1).astype(np.float64)
    return blocked_correlation(x, opening)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", type=Path, help="acoustic model (.onnx); by default the one that ships")
    parser.add_argument("--whisper", type=Path, help="Whisper tiny.en's model.bin, for comparison")
    parser.add_argument("--last-third", type=int, default=10)
    parser.add_argument("--whole", nargs="*", default=[])
    options = parser.parse_args()
    runtime = Runtime(device="cpu")
    encoders = {
        "mel": open_encoder("mel", None, runtime).encode,
        "logits": open_encoder("deepspeech", options.model, runtime).encode,
        "hidden": open_encoder("deepspeech", options.model, runtime, output="hidden").encode,
    }
    if options.whisper:
        from stages.speech.training.whisper import WhisperEncoder

        whisper = WhisperEncoder(options.whisper, layers=2)
        step = 30 * SAMPLE_RATE
        encoders["whisper layer 2"] = lambda s: np.concatenate(
            [whisper.features(s[a : a + step], pad_seconds=30) for a in range(0, len(s), step)]
        )
    clips = sorted(p for p in (options.work / "clips").iterdir() if (p / "speech.wav").exists())
    facts = {p: json.loads((p / "clip.json").read_text(encoding="utf-8"))["facts"] for p in clips}
    whole = [p for p in clips if p.name.startswith(tuple(options.whole))] if options.whole else []
    thirds = sorted((p for p in clips if p not in whole), key=lambda p: -facts[p]["seconds_sound"])[: options.last_third]
    print(f"{'clip':44}" + "".join(f"{name:>17}" for name in ("frames", *encoders)))
    table = []
    for clip in [*whole, *thirds]:
        fps = Fraction(facts[clip]["fps"])
        frames = np.load(clip / "frames.npy")
        opening = lip_opening(np.load(clip / "landmarks.npy").astype(np.float64))
        if clip in thirds:
            late = frames / float(fps) >= facts[clip]["seconds_sound"] * 2 / 3
            frames, opening = frames[late], opening[late]
        if len(frames) < FEWEST:
            print(f"{clip.name[:42]:44}{len(frames):17d}  too short")
            continue
        samples = read_audio(clip / "speech.wav")
        row = [correlation(encode(samples), frames, fps, opening) for encode in encoders.values()]
        table.append(row)
        print(f"{clip.name[:42]:44}{len(frames):17d}" + "".join(f"{r:17.3f}" for r in row), flush=True)
    mean = np.mean(table, 0)
    print(f"{'mean':44}{'':17}" + "".join(f"{r:17.3f}" for r in mean))
    error = np.std(np.array(table) - np.array(table)[:, :1], axis=0, ddof=1) / np.sqrt(len(table))
    print(f"{'difference to mel, standard error':44}{'':17}" + "".join(f"{r:17.3f}" for r in error))


if __name__ == "__main__":
    main()
