"""Golden vectors: a signal, the integers that it gives the integer graph, and those that must come out, by TOSA's reference model.

With a cache, they are those of an utterance's first window: golden_cache_input is what each utterance begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from earshot.config import SAMPLE_RATE_HZ
from earshot.lower import judge
from earshot.lower.tosa import IntegerGraph
from earshot.lower.tosa_with_cache import IntegerGraphWithCache
from earshot.quantize.calibrate import fit_window

ENDS, ENDS_WITH_CACHE = ("audio", "input", "output"), ("audio", "input", "cache_input", "output", "cache_output")


def files(ends: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"golden_{end}.{kind}" for end in ends for kind in ("npy", "bin"))


FILES, FILES_WITH_CACHE = files(ENDS), files(ENDS_WITH_CACHE)


def golden_audio(samples: int) -> np.ndarray:
    """A fixed signal [samples] of int16: tones of changing loudness and pitch, and noise; computed in integers."""
    n = np.arange(samples, dtype=np.int64)
    noise = (n * 1103515245 + 12345) % (1 << 31) >> 20  # 0 ... 2047, a linear congruence of the index
    triangle = np.abs((n * (80 + n // 4000 * 17)) % 4000 - 2000) * 8 - 8000
    loudness = np.abs(n % 16000 - 8000)
    return (triangle * loudness // 8000 + noise - 1024).astype(np.int16)


def write(graph: IntegerGraph, folder: Path, window_s: float) -> None:
    """Write the vectors of a graph to `folder`, as .npy and as .bin (little endian, row by row).

    Raises:
        ArtifactError: our executor gives something else than the reference model, or the graph overflows.
    """
    audio = golden_audio(round(window_s * SAMPLE_RATE_HZ))
    features = fit_window(graph.front_end(audio.astype(np.float32) / 32768.0), graph.front_end, graph.window_frames)[0]
    with_cache = isinstance(graph, IntegerGraphWithCache)
    integers = graph.quantize(features, graph.first_cache) if with_cache else graph.quantize(features)
    vectors = (audio, *integers, *judge.compare(graph, integers, "the golden signal"))
    for name, array in zip(ENDS_WITH_CACHE if with_cache else ENDS, vectors, strict=True):
        np.save(folder / f"golden_{name}.npy", array)
        (folder / f"golden_{name}.bin").write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
