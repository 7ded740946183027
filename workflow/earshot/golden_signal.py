"""A fixed signal that every port of the front end or of a network can be checked with: it needs no file and no random numbers."""

from __future__ import annotations

import numpy as np


def golden_audio(samples: int) -> np.ndarray:
    """A fixed signal [samples] of int16: tones of changing loudness and pitch, and noise; computed in integers."""
    n = np.arange(samples, dtype=np.int64)
    noise = (n * 1103515245 + 12345) % (1 << 31) >> 20  # 0 ... 2047, a linear congruence of the index
    triangle = np.abs((n * (80 + n // 4000 * 17)) % 4000 - 2000) * 8 - 8000
    loudness = np.abs(n % 16000 - 8000)
    return (triangle * loudness // 8000 + noise - 1024).astype(np.int16)
