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
from stages.speech.graph import Output
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


BUNDLED = Path(__file__).parent / "acoustic" / "acoustic.onnx"
"""The acoustic model that ships: our own weights in DeepSpeech's form; MODEL_CARD.md beside it tells how they were made."""

OFFSET = 328
"""A constant part of the sound from which it is removed: 1 % of full scale."""

Factory = Callable[[Path | None, Runtime, int, Output], Encoder]
"""(model file, runtime, threads or 0 for all, which output) -> encoder."""


def mel(model: Path | None, runtime: Runtime, threads: int = 0, output: Output = "logits") -> Encoder:
    """80 log-mel values a row; needs no weights. Raises UsageError when a model file is given."""
    from stages.speech.mel import BINS, log_mel

    if model is not None:
        raise UsageError(f"--model {model}: the mel encoder takes no model; --encoder deepspeech does")
    return Encoder(name="mel", features=BINS, encode=log_mel)


def deepspeech(model: Path | None, runtime: Runtime, threads: int = 0, output: Output = "logits") -> Encoder:
    """29 letter logits a row, or the layer below, from an acoustic model with DeepSpeech's contract.

    Without a model file it is the one that ships. The pipeline is facts/difftalk-official.md section 6, but for sound that
    lies off zero by more than 1 % of full scale: that is a fault of the recording, and is removed. Raises InputError for a
    file that does not keep the contract.
    """
    from stages.speech.frozen_graph import import_graph, is_frozen_graph
    from stages.speech.graph import AcousticGraph, check_file, in_pieces, weight_files
    from stages.speech.mfcc import mfcc_rows, network_input, whitening

    path = model or BUNDLED
    check_file(path)
    digests = [file_digest(f) for f in weight_files(path)]
    opened = import_graph(path, runtime.reporter, digests[0]) if is_frozen_graph(path) else path
    graph = AcousticGraph(opened, runtime, threads=threads, output=output)

    def encode(samples: np.ndarray) -> np.ndarray:
        count = count_rows(samples)
        rows = mfcc_rows(_without_offset(samples))  # (K, 26)
        scale = whitening(rows)
        found = in_pieces(graph, len(rows), lambda start, stop: network_input(rows, scale, start, stop))  # (K, F)
        return fit_rows(found, count)  # (R, F)

    roles = ["acoustic model", *(f"acoustic model data {i}" for i in range(1, len(digests)))]
    licence = "unknown: given by the user" if model else "Apache-2.0 (difftalk)"
    weights = tuple(Weight(role, digest, licence) for role, digest in zip(roles, digests, strict=True))
    return Encoder(name="deepspeech", features=graph.width, encode=encode, weights=weights, place=graph.provider)


def _without_offset(samples: np.ndarray) -> np.ndarray:
    offset = round(float(np.median(samples[::16]))) if len(samples) else 0  # pauses lie at the offset
    return samples if abs(offset) < OFFSET else np.clip(samples.astype(np.int32) - offset, -32768, 32767).astype(np.int16)


ENCODERS: dict[str, Factory] = {"mel": mel, "deepspeech": deepspeech}


def open_encoder(name: str, model: Path | None, runtime: Runtime, *, threads: int = 0, output: Output = "logits") -> Encoder:
    """The encoder `name`, ready to run. Raises UsageError for a name that is not in ENCODERS."""
    if name not in ENCODERS:
        raise UsageError(f"--encoder {name}: unknown; use {' or '.join(ENCODERS)}")
    return ENCODERS[name](model, runtime, threads, output)
