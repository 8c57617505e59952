from __future__ import annotations

import shutil

import numpy as np
import pytest

from stages.errors import DiffTalkError, InputError
from stages.speech.training import voices
from stages.speech.training.voices import Voice, draw_voice, letters, read_sentences, speak


def test_letters_are_what_the_model_can_say():
    assert letters("Don’t  say “naïve”, 3 times!") == "don't say naive times"
    assert letters("...") == ""


def test_held_out_voices_are_never_drawn_for_training_and_only_they_for_testing():
    rng = np.random.default_rng(0)
    engines = ["espeak", "flite", "festival"]
    for held_out in (False, True):
        drawn = [draw_voice(rng, engines, held_out=held_out) for _ in range(300)]
        assert all(v.held_out == held_out for v in drawn)
        assert len({v.name for v in drawn}) > 5
    assert Voice("flite", "rms", 1, 0).held_out and Voice("espeak", "en-us+f3", 1, 0).held_out
    assert not Voice("festival", "rms", 1, 0).held_out


def test_sentences_are_plain_words(tmp_path):
    good = [f"This is a plain sentence about {w}." for w in "anna bert carla dora emil fritz gina hans ida jan kim lea".split()]
    text = "\n\n".join([*good, good[0], "It cost $5 then.", "Two words.", "-- Somebody Else Said It."])
    with pytest.raises(InputError, match="only 12 usable sentences"):
        (tmp_path / "a").write_text(text)
        read_sentences([tmp_path / "a"])


def test_without_a_synthesiser_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DiffTalkError, match="install espeak-ng"):
        voices.engines()


@pytest.mark.parametrize(
    "engine, name, tool", [("espeak", "en-gb+f2", "espeak-ng"), ("flite", "slt", "flite"), ("festival", "kal_diphone", "text2wave")]
)
def test_a_voice_speaks_at_16_khz_and_slower_takes_longer(engine, name, tool):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    try:
        fast, slow = (speak("The quick brown fox.", Voice(engine, name, rate, 0)) for rate in (1.3, 0.8))
    except DiffTalkError as error:
        pytest.skip(f"the voice is not installed: {error}")
    assert fast.dtype == np.int16 and 8_000 < len(fast) < len(slow) < 80_000
    assert np.abs(fast.astype(int)).max() > 1000
