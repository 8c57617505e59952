"""The command line's features against the whole pipeline written a second time, from the sound to the windows.

facts/difftalk-official.md section 6, to the letter: textbook MFCC, every second row, 9 rows of context with zeros, one mean and
deviation for the clip, DeepSpeech 0.1.0's network step by step, 50 rows a second, 16 rows a frame.
"""

from __future__ import annotations

import signal
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from difftalk_cli.main import main
from stages.artifacts import file_digest, read_artifact
from tests.speech import frozen
from tests.speech.sounds import speech_like
from tests.speech.test_mfcc import reference_input
from tests.test_extract_audio import Made, make_clips


def golden(sound: np.ndarray, variables: dict[str, np.ndarray], fps: Fraction, frames: int, output: str) -> np.ndarray:
    """(n,) i16 -> (frames, 16, F) f64, without any code of the package."""
    hidden, logits = frozen.forward(variables, reference_input(sound))
    rows = {"hidden": hidden, "logits": logits}[output]  # (K, F)
    # AD-NeRF: linear interpolation from 50 Hz to 50 Hz, as many rows as the sound is long
    count = round(50 * len(sound) / 16000)
    rows = np.stack([np.interp(np.arange(count) / 50, np.arange(len(rows)) / 50, column) for column in rows.T], axis=1)  # (R, F)
    if fps == 25:  # its own windows: 8 rows of zeros on both sides, 16 rows, stride 2
        padded = np.pad(rows, ((8, 8 + 16), (0, 0)))
        return np.stack([padded[2 * i : 2 * i + 16] for i in range(frames)])
    zero = np.zeros(rows.shape[1])
    out = np.zeros((frames, 16, rows.shape[1]))
    for i in range(frames):
        for j in range(16):
            position = 50 * i / fps + j - 8  # exact
            left = position.numerator // position.denominator
            weight = float(position - left)
            for row, share in ((left, 1 - weight), (left + 1, weight)):
                out[i, j] += share * (rows[row] if 0 <= row < count else zero)
    return out


@pytest.mark.parametrize("output", ["logits", "hidden"])
@pytest.mark.parametrize("fps", ["25/1", "30000/1001", "30/1"])
def test_extract_audio_with_a_frozen_graph_equals_the_pipeline_written_twice(tmp_path, monkeypatch, fps, output):
    monkeypatch.setenv("DIFFTALK_CACHE", str(tmp_path / "cache"))
    sound = speech_like(2.07, noise=0.01)  # neither whole frames nor whole rows
    frames = round(2.07 * Fraction(fps))
    variables = frozen.arrays()
    graph = frozen.write_graph(tmp_path / "output_graph.pb", variables)
    work = make_clips(tmp_path / "work", {"ann-1": Made(sound=sound, fps=fps, total=frames)})
    chosen = ("--encoder", "deepspeech", "--model", graph, "--features", output)
    assert difftalk(monkeypatch, "extract-audio", work, *chosen, "--device", "cpu") == 0
    artifact = read_artifact(work / "features", "features")
    audio = artifact.clips["ann-1"].array("audio.npy")
    wanted = golden(sound, variables, Fraction(fps), frames, output)
    assert audio.shape == wanted.shape == (frames, 16, 29 if output == "logits" else 24)
    assert np.abs(audio - wanted).max() < 2e-5 < 1e-3 * np.abs(wanted).max()
    assert [w["sha256"] for w in artifact.manifest["weights"]] == [file_digest(graph)]


def test_another_versions_graph_is_told_on_the_command_line(tmp_path, monkeypatch, capfd):
    graph = frozen.write_graph(tmp_path / "output_graph.pb", frozen.arrays(), extra=("previous_state_c", "lstm_fused_cell/kernel"))
    work = make_clips(tmp_path / "work", {"ann-1": Made()})
    assert difftalk(monkeypatch, "extract-audio", work, "--encoder", "deepspeech", "--model", graph, "--device", "cpu") == 3
    said = " ".join(capfd.readouterr().err.split())
    assert "output_graph.pb" in said and "DeepSpeech 0.2" in said and "0.1.0" in said and "Traceback" not in said
    assert not (work / "features").exists()


def difftalk(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["difftalk", *map(str, args)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert isinstance(ended.value.code, int)
    return ended.value.code
