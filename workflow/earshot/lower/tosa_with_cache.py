"""The integer graph of a program with a cache: two inputs, two outputs."""

from __future__ import annotations

from pathlib import Path

import torch

from earshot import left_context
from earshot.files import read_json
from earshot.lower.tosa import PROGRAM_REPORT, IntegerGraph


class IntegerGraphWithCache(IntegerGraph):
    """Features [window_frames, n_mels] and cache [rows, D] to logits [T', V] and the cache of the next window."""

    def __init__(self, folder: str | Path) -> None:
        """As for a graph without a cache; `first_cache` is that of an utterance's first window."""
        super().__init__(folder)
        report = read_json(Path(folder) / PROGRAM_REPORT)
        self.layout, self.first_cache = left_context.layout(report), left_context.read_first_cache(Path(folder), report)
        self.inputs, self.outputs = ([self.boundary[name] for name in (end, f"cache_{end}")] for end in ("input", "output"))

    def __call__(  # type: ignore[override]  # two inputs: recognizers.has_cache tells these graphs from others
        self, features: torch.Tensor, cache: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logits, cache = self.dequantize(*self.run(*self.quantize(features, cache)))
        return logits, cache


def open_graph(folder: str | Path) -> IntegerGraph:
    """The integer graph in a program or variant directory, with a cache where the program has one.

    Raises:
        ArtifactError: as IntegerGraph.
    """
    cached = read_json(Path(folder) / PROGRAM_REPORT).get("cache")
    return (IntegerGraphWithCache if cached else IntegerGraph)(folder)
