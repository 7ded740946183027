"""What a microphone adds to clean speech: a level, a room, noise."""

from __future__ import annotations

import numpy as np

FLOOR = 1e-10  # power below which a signal counts as digital silence


def trimmed(speech: np.ndarray, sample_rate_hz: int, threshold_db: float = -45.0) -> np.ndarray:
    """`speech` [samples] without the silence before and after it; `threshold_db` is relative to the loudest 10 ms."""
    hop = sample_rate_hz // 100
    energy = np.square(speech[: len(speech) // hop * hop].reshape(-1, hop)).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 10 ** (threshold_db / 10))
    return speech[loud[0] * hop : (loud[-1] + 1) * hop]


def at_level(speech: np.ndarray, level_dbfs: float) -> np.ndarray:
    """`speech` scaled to a root mean square of `level_dbfs`, lower where its peak would clip."""
    gain = 10 ** (level_dbfs / 20) / np.sqrt(max(np.square(speech).mean(), FLOOR))
    return speech * min(gain, 0.95 / max(np.abs(speech).max(), FLOOR))


def in_room(
    speech: np.ndarray, sample_rate_hz: int, rt60_s: float, direct_to_reverberant_db: float, rng: np.random.Generator
) -> np.ndarray:
    """`speech` convolved with a direct path and exponentially decaying noise, 60 dB down after `rt60_s`; same length."""
    samples = int(rt60_s * sample_rate_hz)
    if samples < 2:
        return speech
    tail = rng.standard_normal(samples) * 10 ** (-3 * np.arange(samples) / samples)
    tail[: sample_rate_hz // 500] = 0  # nothing is reflected within the first 2 ms
    energy = np.square(tail).sum()
    if energy == 0:
        return speech
    response = tail * np.sqrt(10 ** (-direct_to_reverberant_db / 10) / energy)
    response[0] = 1.0
    size = 1 << (len(speech) + samples - 1).bit_length()
    return np.fft.irfft(np.fft.rfft(speech, size) * np.fft.rfft(response, size), size)[: len(speech)]


def with_noise(speech: np.ndarray, snr_db: float, slope: float, rng: np.random.Generator) -> np.ndarray:
    """`speech` with noise of a power spectrum f ** -slope (0 white, 1 pink) added at `snr_db`."""
    size = 1 << len(speech).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum /= np.maximum(np.arange(len(spectrum)), size / 800) ** (slope / 2)  # flat below 1/800 of the sample rate, 20 Hz at 16 kHz
    noise = np.fft.irfft(spectrum)[: len(speech)]
    power = np.square(speech).mean() / 10 ** (snr_db / 10)
    return speech + noise * np.sqrt(power / max(np.square(noise).mean(), FLOOR))
