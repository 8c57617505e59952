"""How fast an encoder is, and how much memory a long recording takes.

    python -m tests.bench.acoustic [--encoder deepspeech] [--features logits] [--model FILE] [--hours 2] [--speech FILE]

Prints the real-time factor on 60 s of sound (best and worst of five), then makes a recording of `--hours` by repeating the
speech, runs `extract-audio` on it in a process of its own and prints its time and peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from stages.media.audio import read_audio, write_wav
from stages.runtime import Runtime
from stages.shapes import SAMPLE_RATE
from stages.speech.encoder import open_encoder

SPEECH = Path(__file__).parents[1] / "data" / "speech.wav"

CHILD = """
import json, re, sys, time
from pathlib import Path
from stages import extract_audio
from stages.runtime import Runtime
def peak_mb():  # of this program alone: getrusage would count what started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
before = peak_mb()
start = time.perf_counter()
config = extract_audio.Config(encoder=sys.argv[2], features=sys.argv[3], model=Path(sys.argv[4]) if sys.argv[4] else None)
extract_audio.run(config, Path(sys.argv[1]), None, Runtime(device="cpu"))
print(json.dumps({"seconds": time.perf_counter() - start, "start_mb": before, "peak_mb": peak_mb()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="deepspeech")
    parser.add_argument("--features", default="logits")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--speech", type=Path, default=SPEECH)
    options = parser.parse_args()
    speech = read_audio(options.speech)
    start = time.perf_counter()
    encoder = open_encoder(options.encoder, options.model, Runtime(device="cpu"), output=options.features)
    print(f"{encoder.name}, {encoder.features} features, {encoder.place}: opened in {time.perf_counter() - start:.2f} s")
    minute = np.resize(speech, 60 * SAMPLE_RATE)
    encoder.encode(minute[: 5 * SAMPLE_RATE])  # imports and first run
    times = []
    for _ in range(5):
        start = time.perf_counter()
        encoder.encode(minute)
        times.append(time.perf_counter() - start)
    print(f"60 s of sound: {min(times):.2f} .. {max(times):.2f} s, real-time factor {min(times) / 60:.4f} .. {max(times) / 60:.4f}")
    for hours in (options.hours / 4, options.hours):
        with tempfile.TemporaryDirectory(prefix="difftalk-") as folder:
            work = _work(Path(folder) / "work", np.resize(speech, int(hours * 3600 * SAMPLE_RATE)))
            arguments = [str(work), options.encoder, options.features, str(options.model or "")]
            done = subprocess.run([sys.executable, "-c", CHILD, *arguments], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(f"{hours:g} h: {found['seconds']:.0f} s, peak {found['peak_mb']:.0f} MB ({found['start_mb']:.0f} MB before it began)")


def _work(root: Path, samples: np.ndarray) -> Path:
    """A clips artifact of one clip with this sound at 25 frames a second, as preprocess would leave it, less the pictures."""
    from dataclasses import dataclass

    from stages.artifacts import Input, Store, Unit

    @dataclass(frozen=True, kw_only=True)
    class ClipsConfig:
        resolution: int = 256

    total = len(samples) * 25 // SAMPLE_RATE
    with Store(root, kind="clips", stage="preprocess", code=1, config=ClipsConfig(), runtime=Runtime()) as store:
        for unit in store.plan([Unit("long-00000000", (Input("video", "file", "0"),))]):
            with store.draft(unit) as draft:
                np.save(draft.path / "frames.npy", np.arange(total, dtype=np.int32))
                write_wav(draft.path / "speech.wav", samples)
                draft.facts |= {"fps": "25/1", "frames_total": total}
        store.seal()
    return root


if __name__ == "__main__":
    main()
