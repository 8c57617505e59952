"""What real recordings say, by Whisper tiny.en through CTranslate2: letters to learn from, where it is sure of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import DiffTalkError
from stages.runtime import Reporter
from stages.shapes import SAMPLE_RATE
from stages.speech.training.corpus import cut, read_part
from stages.speech.training.whisper import log_mel

SURE = -0.45
"""Mean log-probability of a token from which a transcript counts; foreign speech and music lie below."""
PROMPT = [50257, 50362]
"""<|startoftranscript|><|notimestamps|> of the English-only models."""


class Transcriber:
    """`folder` holds model.bin, tokenizer.json and config.json. Raises DiffTalkError without ctranslate2 and tokenizers."""

    def __init__(self, folder: Path, threads: int = 2):
        try:
            import ctranslate2
            import tokenizers
        except ImportError as error:
            raise DiffTalkError(f"{error.name} is not installed; pip install 'difftalk[speech-training]'") from error
        self.view = ctranslate2.StorageView
        self.model = ctranslate2.models.Whisper(str(folder), compute_type="float32", intra_threads=threads)
        self.tokens = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def __call__(self, samples: np.ndarray) -> tuple[str, float]:
        """(n,) i16, at most 30 s -> (text, mean log-probability)."""
        mel = log_mel(samples, 30 * SAMPLE_RATE)
        found = self.model.generate(self.view.from_array(mel[None].contiguous().numpy()), [PROMPT], beam_size=2, return_scores=True)[0]
        return self.tokens.decode(found.sequences_ids[0]).strip(), float(found.scores[0])


def transcripts(samples: np.ndarray, transcriber: Transcriber) -> list[tuple[float, float, str]]:
    """(start, stop, text) in seconds of the pieces that `cut` makes, where the transcriber is sure."""
    found = []
    for a, b in cut(samples):
        text, score = transcriber(samples[a:b])
        if score > SURE and text:
            found.append((a / SAMPLE_RATE, b / SAMPLE_RATE, text))
    return found


def transcribe_sources(sources: list[dict[str, Any]], path: Path, folder: Path, reporter: Reporter) -> None:
    """Add `transcripts` to every source; kept in `path` (JSON), so that it is done once."""
    from stages.artifacts.files import write_atomic

    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    transcriber = None
    for source in sources:
        key = f"{source['path']}|{source.get('start', 0.0)}|{source.get('stop')}"
        if key not in known:
            reporter.log(f"transcribing {source['speaker']}")
            transcriber = transcriber or Transcriber(folder)
            known[key] = transcripts(read_part(source)[0], transcriber)
        source["transcripts"] = known[key]
    with write_atomic(path) as part:
        part.write_text(json.dumps(known, indent=1), encoding="utf-8")
