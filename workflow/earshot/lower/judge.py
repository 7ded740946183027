"""TOSA's reference model as the judge of our executor: on the same integers both must give the same bits."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import torch

from earshot.errors import ArtifactError
from earshot.lower.tosa import IntegerGraph


def compare(graph: IntegerGraph, integers: tuple[np.ndarray, ...], what: str) -> tuple[np.ndarray, ...]:
    """What both compute from `integers`, one for each input; `what` says what these are, for messages.

    Raises:
        ArtifactError: they differ, or the result is not defined.
    """
    wanted = graph.reference(*integers)
    if wanted is None:
        raise ArtifactError(f"{graph.path}: on {what}: the graph overflows (TOSA_UNPREDICTABLE); choose another quant")
    _equal(graph, integers, wanted, what)
    return wanted


def _equal(graph: IntegerGraph, integers: tuple[np.ndarray, ...], wanted: tuple[np.ndarray, ...], what: str) -> None:
    for ours, theirs in zip(graph.run(*integers), wanted, strict=True):
        if ours.dtype != theirs.dtype or not np.array_equal(ours, theirs):
            differing = f"{np.count_nonzero(ours != theirs)} of {theirs.size} values" if ours.shape == theirs.shape else "the shapes"
            raise ArtifactError(
                f"{graph.path}: on {what}: our executor and TOSA's reference model differ in {differing}; "
                "run the tosa step again, and if it stays report it as an error of earshot with this file"
            )


def extremes(graph: IntegerGraph) -> dict[str, tuple[np.ndarray, ...]]:
    """Inputs that reach the ends of their types, by what they are: real features seldom do."""
    halves, spread, numbers = [], [], np.random.default_rng(0)
    for end in graph.inputs:
        low, high = end["min"], end["max"]
        halves.append(np.full(end["shape"], low, end["dtype"]))
        halves[-1][:, halves[-1].shape[1] // 2 :] = high
        spread.append(numbers.integers(low, high, end["shape"], end["dtype"], endpoint=True))
    return {"the least and then the greatest input": tuple(halves), "random input of the whole range": tuple(spread)}


@contextlib.contextmanager
def extremes_compared(graph: IntegerGraph) -> Iterator[Callable[[], int]]:
    """Compare on the extremes while the block does something else, as far as there are cores for it. What is given waits for the end and
    says on how many: those are no judge on which the reference model says that the result is not defined.

    The reference model computes in processes of its own: it takes most of a minute for a large network, and lets no other thread run.

    Raises:
        ArtifactError: a result differs.
    """
    given = extremes(graph)
    if len(os.sched_getaffinity(0)) < 2:
        yield lambda: _compared(graph, given, {what: graph.reference(*integers) for what, integers in given.items()})
        return
    # Forked, as a new process would import for longer than most graphs take; the forks do nothing but run the reference model.
    # Pickled here and now: the pool would do it in a thread of its own, while the block has the graph make its executor.
    pickled = pickle.dumps(graph)
    with ProcessPoolExecutor(len(given), multiprocessing.get_context("fork")) as pool:
        waiting = {what: pool.submit(_reference, pickled, integers) for what, integers in given.items()}

        def finished() -> int:
            try:
                wanted = {what: one.result() for what, one in waiting.items()}
            except BrokenProcessPool as error:
                raise ArtifactError(f"{graph.path}: the process that judged it ended abruptly; give the step more memory") from error
            return _compared(graph, given, wanted)

        yield finished


def _reference(pickled: bytes, integers: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...] | None:
    return pickle.loads(pickled).reference(*integers)


def _compared(graph: IntegerGraph, given: dict, wanted: dict) -> int:
    defined = {what: one for what, one in wanted.items() if one is not None}
    for what, one in defined.items():
        _equal(graph, given[what], one, what)
    return len(defined)


class Judged:
    """An integer graph, each window of which the reference model is given too; `windows` counts them. All else is the graph's."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph, self.windows = graph, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.graph, name)

    def __call__(self, *floats: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """As the graph.

        Raises:
            ArtifactError: the reference model gives something else.
        """
        self.windows += 1
        found = self.graph.dequantize(*compare(self.graph, self.graph.quantize(*floats), "these features"))
        return found if len(found) > 1 else found[0]
