"""Made sounds, the same on every machine."""

from __future__ import annotations

import numpy as np

RATE = 16_000


def speech_like(seconds: float, rms: float = 0.1, seed: int = 0, noise: float = 0.0) -> np.ndarray:
    """Vowel-like syllables of changing pitch and timbre with pauses between: (n,) i16 at 16 kHz.

    `noise` is the rms of white noise under it, relative to the speech.
    """
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tones = sum(np.sin(k * phase) * np.exp(-(((k * 120 - 500 - 300 * np.sin(2 * np.pi * 1.3 * t)) / 600) ** 2)) for k in range(1, 25))
    sound = tones * np.maximum(0, np.sin(2 * np.pi * 2.5 * t)) ** 2
    sound = sound / np.sqrt((sound**2).mean()) + noise * rng.standard_normal(len(t))
    return np.round(rms * sound * 32767).clip(-32768, 32767).astype(np.int16)


def click(seconds: float, at: float) -> np.ndarray:
    """Digital silence with one loud 1 ms click centred on the time `at`: (n,) i16 at 16 kHz."""
    out = np.zeros(round(seconds * RATE), np.int16)
    middle = round(at * RATE)
    out[middle - 8 : middle + 8] = np.resize([20000, -20000], 16)
    return out
