"""Speech encoders behind one contract. A new one is a function in ENCODERS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.artifacts import Weight, file_digest
from stages.errors import UsageError
from stages.runtime import Runtime
from stages.shapes import FEATURE_RATE
from stages.speech.rows import count_rows, fit_rows


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns the sound of one clip into feature rows."""

    name: str
    features: int
    """F."""
    encode: Callable[[np.ndarray], np.ndarray]
    """(n,) i16 mono at 16 kHz -> (R, F) f32, R = round(50 * seconds) rows; row r belongs to r * 20 ms.

    Raises InputError for sound of 10 ms or less and for other types.
    """
    rows_hz: int = FEATURE_RATE
    weights: tuple[Weight, ...] = ()
    place: str = "CPU"
    """What it runs on, for the log."""


Factory = Callable[[Path | None, Runtime, int], Encoder]
"""(model file, runtime, threads or 0 for all) -> encoder."""


def mel(model: Path | None, runtime: Runtime, threads: int = 0) -> Encoder:
    """80 log-mel values a row; needs no weights. Raises UsageError when a model file is given."""
    from stages.speech.mel import BINS, log_mel

    if model is not None:
        raise UsageError(f"--model {model}: the mel encoder takes no model; --encoder deepspeech does")
    return Encoder(name="mel", features=BINS, encode=log_mel)


def deepspeech(model: Path | None, runtime: Runtime, threads: int = 0) -> Encoder:
    """29 letter logits a row from an acoustic model with DeepSpeech's contract (facts/difftalk-official.md section 6).

    Raises UsageError without a model file, InputError for one that does not keep the contract.
    """
    from stages.speech.graph import LETTERS, AcousticGraph, check_file, in_pieces, weight_files
    from stages.speech.mfcc import mfcc_rows, network_input, whitening

    if model is None:
        raise UsageError("--encoder deepspeech needs --model FILE.onnx, the acoustic model; --encoder mel needs none")
    check_file(model)
    files = weight_files(model)
    graph = AcousticGraph(model, runtime, threads=threads)

    def encode(samples: np.ndarray) -> np.ndarray:
        count = count_rows(samples)
        rows = mfcc_rows(samples)  # (K, 26)
        scale = whitening(rows)
        logits = in_pieces(graph, len(rows), lambda start, stop: network_input(rows, scale, start, stop))  # (K, 29)
        return fit_rows(logits, count)  # (R, 29)

    roles = ["acoustic model", *(f"acoustic model data {i}" for i in range(1, len(files)))]
    weights = tuple(Weight(role, file_digest(f), "unknown: given by the user") for role, f in zip(roles, files, strict=True))
    return Encoder(name="deepspeech", features=LETTERS, encode=encode, weights=weights, place=graph.provider)


ENCODERS: dict[str, Factory] = {"mel": mel, "deepspeech": deepspeech}


def open_encoder(name: str, model: Path | None, runtime: Runtime, *, threads: int = 0) -> Encoder:
    """The encoder `name`, ready to run. Raises UsageError for a name that is not in ENCODERS."""
    if name not in ENCODERS:
        raise UsageError(f"--encoder {name}: unknown; use {' or '.join(ENCODERS)}")
    return ENCODERS[name](model, runtime, threads)
