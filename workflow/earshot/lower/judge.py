"""TOSA's reference model as the judge of our executor: on the same integers both must give the same bits."""

from __future__ import annotations

import numpy as np
import torch

from earshot.errors import ArtifactError
from earshot.lower.tosa import IntegerGraph


def compare(graph: IntegerGraph, integers: np.ndarray, what: str) -> np.ndarray:
    """What both compute from `integers`; `what` says what these are, for messages.

    Raises:
        ArtifactError: they differ, or the result is not defined.
    """
    wanted = graph.reference(integers)
    if wanted is None:
        raise ArtifactError(f"{graph.path}: on {what}: the graph overflows (TOSA_UNPREDICTABLE); choose another quant")
    _equal(graph, integers, wanted, what)
    return wanted


def _equal(graph: IntegerGraph, integers: np.ndarray, wanted: np.ndarray, what: str) -> None:
    found = graph.run(integers)
    if found.dtype != wanted.dtype or not np.array_equal(found, wanted):
        differing = f"{np.count_nonzero(found != wanted)} of {wanted.size} values" if found.shape == wanted.shape else "the shapes"
        raise ArtifactError(
            f"{graph.path}: on {what}: our executor and TOSA's reference model differ in {differing}; "
            "run the tosa step again, and if it stays report it as an error of earshot with this file"
        )


def extremes(graph: IntegerGraph) -> dict[str, np.ndarray]:
    """Inputs that reach the ends of the input's type, by what they are: real features seldom do."""
    end = graph.boundary["input"]
    low, high = end["min"], end["max"]
    halves = np.full(end["shape"], low, end["dtype"])
    halves[:, halves.shape[1] // 2 :] = high
    spread = np.random.default_rng(0).integers(low, high, end["shape"], end["dtype"], endpoint=True)
    return {"the least and then the greatest input": halves, "random input of the whole range": spread}


def compare_extremes(graph: IntegerGraph) -> int:
    """Compare on the extremes and say on how many: those are no judge on which the reference model says that the result is not defined.

    Raises:
        ArtifactError: a result differs.
    """
    judged = 0
    for what, integers in extremes(graph).items():
        wanted = graph.reference(integers)
        if wanted is not None:
            _equal(graph, integers, wanted, what)
            judged += 1
    return judged


class Judged:
    """An integer graph, each window of which the reference model is given too; `windows` counts them."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph, self.windows = graph, 0
        self.window_frames, self.front_end, self.pieces, self.grid = graph.window_frames, graph.front_end, graph.pieces, graph.grid

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """As the graph.

        Raises:
            ArtifactError: the reference model gives something else.
        """
        self.windows += 1
        return self.graph.dequantize(compare(self.graph, self.graph.quantize(features), "these features"))
