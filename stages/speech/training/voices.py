"""Speech with known text from free synthesisers: eSpeak NG, Flite, Festival (what is installed is used)."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tempfile
import unicodedata
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.errors import DiffTalkError, InputError
from stages.shapes import SAMPLE_RATE

ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
FOREIGN = ("de", "fr-fr", "es", "it", "nl", "pl", "ru", "pt-br", "sv", "cs", "tr", "ro", "hu", "el")
"""Other languages' voices read the same text: their sounds count for the teacher's features, never as English letters."""
TIMBRES = (
    "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5",
    "Andrea", "Annie", "Alex", "Denis", "Diogo", "Gene", "Lee", "Mario", "Michael", "Mike", "Steph", "belinda", "linda", "grandma", "steph",
)  # fmt: skip
HELD_OUT = frozenset({"m4", "f3", "Gene", "linda", "flite:rms", "en-gb-scotland"})
"""Voices that training never hears: letter errors on synthetic speech are counted on them."""
FLITE = ("kal16", "awb", "rms", "slt")
FESTIVAL = ("cmu_us_slt_arctic_hts", "kal_diphone")


@dataclass(frozen=True)
class Voice:
    """One speaker and way of speaking."""

    engine: str
    """espeak, flite or festival."""
    name: str
    rate: float
    """1 is the engine's normal speed."""
    pitch: float
    """-1 low .. 1 high, 0 the voice's own."""
    english: bool = True

    @property
    def held_out(self) -> bool:
        return bool({*self.name.split("+"), f"{self.engine}:{self.name}"} & HELD_OUT)


def engines() -> list[str]:
    """The synthesisers on this machine. Raises DiffTalkError when there is none."""
    found = [name for name, tool in (("espeak", "espeak-ng"), ("flite", "flite"), ("festival", "text2wave")) if shutil.which(tool)]
    if not found:
        raise DiffTalkError("no speech synthesiser found; install espeak-ng (also used: flite, festival with festvox-us-slt-hts)")
    return found


def draw_voice(rng: np.random.Generator, found: list[str], *, held_out: bool = False) -> Voice:
    """A random voice; eSpeak's many timbres most often. `held_out` draws from the voices kept for testing."""
    weight = {"espeak": 0.62, "flite": 0.26, "festival": 0.12}
    share = np.array([weight[e] for e in found])
    while True:
        engine = str(rng.choice(found, p=share / share.sum()))
        rate, pitch = float(rng.uniform(0.75, 1.3)), float(rng.uniform(-1, 1))
        if engine == "espeak":
            english = held_out or rng.random() < 0.75
            name = f"{rng.choice(ACCENTS if english else FOREIGN)}+{rng.choice(TIMBRES)}"
            voice = Voice(engine, name, rate, pitch, english)
        else:
            voice = Voice(engine, str(rng.choice(FLITE if engine == "flite" else FESTIVAL)), rate, pitch)
        if voice.held_out == held_out:
            return voice


def speak(text: str, voice: Voice) -> np.ndarray:
    """(n,) i16 mono at 16 kHz. Raises DiffTalkError when the synthesiser fails."""
    if voice.engine == "espeak":
        command = ["espeak-ng", "-v", voice.name, "-s", str(round(165 * voice.rate)), "-p", str(round(50 + 35 * voice.pitch)), "--stdout"]
        data = _run(command, text)
    elif voice.engine == "flite":
        f0 = {"kal16": 105, "awb": 120, "rms": 100, "slt": 170}[voice.name] * 1.25**voice.pitch
        command = ["flite", "-voice", voice.name, "--setf", f"duration_stretch={1 / voice.rate:.3f}"]
        data = _run([*command, "--setf", f"int_f0_target_mean={f0:.0f}", "-t", text, "-o"], "", to_file=True)
    else:
        # Duration_Stretch is festival's own word for 1 / speed
        setup = f"(begin (voice_{voice.name}) (Parameter.set 'Duration_Stretch {1 / voice.rate:.3f}))"
        data = _run(["text2wave", "-eval", setup, "-F", str(SAMPLE_RATE)], text)
    return _samples(data, voice)


def _run(command: list[str], text: str, *, to_file: bool = False) -> bytes:
    """What the synthesiser writes; with `to_file`, into a file named last on its command line (flite hangs on a pipe)."""
    with tempfile.TemporaryDirectory(prefix="difftalk-") as folder:
        out = Path(folder, "speech.wav")
        try:
            done = subprocess.run(
                [*command, *([str(out)] if to_file else [])], input=text.encode(), capture_output=True, check=False, timeout=60
            )
        except subprocess.TimeoutExpired as error:
            raise DiffTalkError(f"{command[0]} hangs on {text!r}") from error
        data = out.read_bytes() if to_file and out.exists() else done.stdout
    if done.returncode or len(data) < 1000:
        raise DiffTalkError(f"{command[0]} said nothing for {text!r}: {done.stderr.decode(errors='replace').strip()[-200:]}")
    return data


def _samples(data: bytes, voice: Voice) -> np.ndarray:
    from scipy.signal import resample_poly

    # A synthesiser that writes to a pipe cannot go back and fill in the length: the header's count is not to be trusted.
    with wave.open(io.BytesIO(data)) as f:
        rate = f.getframerate()
    at = data.index(b"data") + 8
    x = np.frombuffer(data[at : at + (len(data) - at) // 2 * 2], "<i2")
    if rate != SAMPLE_RATE:
        common = np.gcd(rate, SAMPLE_RATE)
        x = np.clip(resample_poly(x.astype(np.float32), SAMPLE_RATE // common, rate // common), -32768, 32767).astype(np.int16)
    if not x.any():
        raise DiffTalkError(f"{voice.engine} {voice.name}: silence")
    return x


def read_sentences(paths: list[Path]) -> list[str]:
    """Sentences of 3 to 18 plain words from text files. Raises InputError when they hold fewer than 100."""
    found: dict[str, None] = {}
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="ignore")
        for piece in re.split(r"(?<=[.!?;:])\s+|\n\s*%\s*\n|\n\s*--|\n\s*\n", text):
            words = piece.split()
            if 3 <= len(words) <= 18 and not piece.startswith("--") and not re.search(r"[\d@#$%^&*_=+|<>/\\{}\[\]~]|[A-Z]{3,}", piece):
                found.setdefault(" ".join(words))
    if len(found) < 100:
        raise InputError(f"only {len(found)} usable sentences in {len(paths)} text files; Debian's package `fortunes` has 20,000")
    return list(found)


def letters(text: str) -> str:
    """What an English letter model can say: lower case a-z, apostrophe, single spaces."""
    plain = unicodedata.normalize("NFKD", text.replace("’", "'")).encode("ascii", "ignore").decode().lower()
    return " ".join(re.sub(r"[^a-z']+", " ", plain).split())
