"""What happens to speech on its way to a microphone and a file: level, room, noise, bandwidth, coarse codecs."""

from __future__ import annotations

import numpy as np

from stages.shapes import SAMPLE_RATE


def augment(samples: np.ndarray, rng: np.random.Generator, background: np.ndarray | None = None) -> np.ndarray:
    """(n,) i16 -> (n,) i16 at the same times. `background` (m,) i16 is other speech, for babble."""
    x = samples.astype(np.float32) / 32768
    if rng.random() < 0.5:
        x = _tilt(x, rng)
    if rng.random() < 0.45:
        x = _room(x, rng)
    if rng.random() < 0.7:
        x = _noise(x, rng, background)
    if rng.random() < 0.3:
        x = _band(x, rng)
    x = x / max(float(np.abs(x).max()), 1e-6) * 10 ** rng.uniform(-1.5, 0.0)
    kind = rng.random()
    if kind < 0.15:
        x = _mu_law(x)
    elif kind < 0.25:
        x = np.clip(x * rng.uniform(1.5, 4), -1, 1)  # an overdriven microphone
    return np.clip(np.round(x * 32767), -32768, 32767).astype(np.int16)


def respeed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Played `factor` times as fast: pitch and formants move along, which makes another speaker. (n,) i16 -> (n / factor,) i16."""
    from scipy.signal import resample_poly

    up, down = 100, round(100 * factor)
    x = resample_poly(samples.astype(np.float32), up, down)
    return np.clip(np.round(x), -32768, 32767).astype(np.int16)


def _tilt(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One real pole or zero: a dull or a bright microphone."""
    from scipy.signal import lfilter

    a = rng.uniform(-0.6, 0.6)
    return lfilter([1.0, a], [1.0], x).astype(np.float32)


def _room(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reverberation of 0.1 .. 0.6 s: exponentially decaying noise behind the direct sound."""
    from scipy.signal import fftconvolve

    seconds = rng.uniform(0.1, 0.6)
    n = int(seconds * SAMPLE_RATE)
    tail = rng.standard_normal(n).astype(np.float32) * 10 ** (-3 * np.arange(n, dtype=np.float32) / n)  # -60 dB at its end
    tail[: int(rng.uniform(0.002, 0.02) * SAMPLE_RATE)] = 0
    tail *= 10 ** rng.uniform(-0.6, 0.3) / np.sqrt((tail**2).sum() + 1e-9)
    tail[0] = 1
    return fftconvolve(x, tail)[: len(x)].astype(np.float32)


def _noise(x: np.ndarray, rng: np.random.Generator, background: np.ndarray | None) -> np.ndarray:
    """White to brown noise, hum, or other voices, 3 .. 35 dB below the speech."""
    kind = rng.random()
    if background is not None and len(background) > 100 and kind < 0.35:
        start = int(rng.integers(len(background)))
        noise = np.resize(np.roll(background, -start), len(x)).astype(np.float32)
        below = rng.uniform(8, 35)
    else:
        spectrum = np.fft.rfft(rng.standard_normal(len(x)).astype(np.float32))
        f = np.maximum(np.arange(len(spectrum)), 1)
        noise = np.fft.irfft(spectrum * f ** (-rng.uniform(0, 1.2)), len(x)).astype(np.float32)
        if kind > 0.85:
            hum = np.arange(len(x)) * 2 * np.pi * float(rng.choice([50, 60])) / SAMPLE_RATE
            noise = noise / (noise.std() + 1e-9) + sum(np.sin(k * hum) / k for k in (1, 2, 3))
        below = rng.uniform(3, 35)
    power = float((x**2).mean()) / max(float((noise**2).mean()), 1e-12)
    return (x + noise * np.sqrt(power) * 10 ** (-below / 20)).astype(np.float32)


def _band(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A telephone or a low bit rate: nothing above 3 .. 7 kHz, sometimes nothing below 300 Hz."""
    from scipy.signal import butter, sosfilt

    high = rng.uniform(3000, 7000)
    low = rng.uniform(80, 300)
    if rng.random() < 0.4:
        return sosfilt(butter(4, [low, high], "bandpass", fs=SAMPLE_RATE, output="sos"), x).astype(np.float32)
    return sosfilt(butter(6, high, fs=SAMPLE_RATE, output="sos"), x).astype(np.float32)


def _mu_law(x: np.ndarray) -> np.ndarray:
    """Through 8 bits of G.711 mu-law."""
    mu = 255.0
    y = np.sign(x) * np.log1p(mu * np.abs(x)) / np.log1p(mu)
    y = np.round(y * 127) / 127
    return (np.sign(y) * np.expm1(np.abs(y) * np.log1p(mu)) / mu).astype(np.float32)
