"""The integer graph of a program with a cache: two inputs, two outputs, run by TOSA's reference model."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import tosa_reference_model

from earshot import left_context
from earshot.errors import ArtifactError
from earshot.files import read_json
from earshot.lower.descriptors import output_to
from earshot.lower.tosa import PROGRAM_REPORT, IntegerGraph, to_floats, to_integers


class IntegerGraphWithCache(IntegerGraph):
    """Features [window_frames, n_mels] and cache [rows, D] to logits [T', V] and the cache of the next window."""

    def __init__(self, folder: str | Path) -> None:
        """As for a graph without a cache; `first_cache` is that of an utterance's first window."""
        super().__init__(folder)
        report = read_json(Path(folder) / PROGRAM_REPORT)
        self.layout, self.first_cache = left_context.layout(report), left_context.read_first_cache(Path(folder), report)
        self._ends = [self.boundary["output"], self.boundary["cache_output"]]

    def quantize_cache(self, cache: torch.Tensor) -> np.ndarray:
        """A cache [rows, D] to the graph's integers [1, rows, D]."""
        return to_integers(cache, self.boundary["cache_input"])

    def run_with_cache(self, integers: np.ndarray, cache: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Integers in, integers out.

        Raises:
            ArtifactError: the reference model cannot run the graph, or the graph overflows.
        """
        try:
            with output_to(os.devnull):  # a notice at each run that the graph is of TOSA 1.0
                outputs, status = tosa_reference_model.run(self._graph, [integers, cache], verbosity="LOW")
        except Exception as error:  # the reference model raises what its native code throws
            raise ArtifactError(
                f"{self.path}: cannot be run ({str(error).strip()[:200]}); delete it and run the tosa step again"
            ) from error
        found = [(list(one.shape), str(one.dtype)) for one in outputs]
        if status != tosa_reference_model.GraphStatus.TOSA_VALID or found != [(end["shape"], end["dtype"]) for end in self._ends]:
            raise ArtifactError(f"{self.path}: gave no valid result ({status.name}); delete it and run the tosa step again")
        return outputs[0], outputs[1]

    def __call__(self, features: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        results = self.run_with_cache(self.quantize(features), self.quantize_cache(cache))
        logits, cache = (to_floats(result, end) for result, end in zip(results, self._ends, strict=True))
        return logits, cache


def open_graph(folder: str | Path) -> IntegerGraph:
    """The integer graph in a program or variant directory, with a cache where the program has one.

    Raises:
        ArtifactError: as IntegerGraph.
    """
    cached = read_json(Path(folder) / PROGRAM_REPORT).get("cache")
    return (IntegerGraphWithCache if cached else IntegerGraph)(folder)
