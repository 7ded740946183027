"""Golden vectors: a signal, its features, the integers that they give the integer graph, and those that must come out, by TOSA's reference
model.

With a cache, they are those of an utterance's first window: golden_cache_input is what each utterance begins with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from earshot.config import SAMPLE_RATE_HZ
from earshot.golden_signal import golden_audio
from earshot.lower import judge
from earshot.lower.tosa import IntegerGraph
from earshot.lower.tosa_with_cache import IntegerGraphWithCache
from earshot.windows import fit_window

ENDS = ("audio", "features", "input", "output")
ENDS_WITH_CACHE = ("audio", "features", "input", "cache_input", "output", "cache_output")


def files(ends: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"golden_{end}.{kind}" for end in ends for kind in ("npy", "bin"))


FILES, FILES_WITH_CACHE = files(ENDS), files(ENDS_WITH_CACHE)


def write(graph: IntegerGraph, folder: Path, window_s: float) -> None:
    """Write the vectors of a graph to `folder`, as .npy and as .bin (little endian, row by row).

    Raises:
        ArtifactError: our executor gives something else than the reference model, or the graph overflows.
    """
    audio = golden_audio(round(window_s * SAMPLE_RATE_HZ))
    features = fit_window(graph.front_end(audio.astype(np.float32) / 32768.0), graph.front_end, graph.window_frames)[0]
    caches = [graph.first_cache] if isinstance(graph, IntegerGraphWithCache) else []
    integers = graph.quantize(features, *caches)
    vectors = (audio, features.numpy(), *integers, *judge.compare(graph, integers, "the golden signal"))
    for name, array in zip(ENDS_WITH_CACHE if caches else ENDS, vectors, strict=True):
        np.save(folder / f"golden_{name}.npy", array)
        (folder / f"golden_{name}.bin").write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
