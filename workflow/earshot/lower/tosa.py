"""The integer graph: the very TOSA graph that Vela compiles, run bit by bit as the NPU computes it.

Our own executor runs it, being many times faster than TOSA's reference model, which stays the judge: see earshot.lower.judge.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tosa_reference_model

from earshot.errors import ArtifactError
from earshot.features import FrontEnd
from earshot.files import read_json
from earshot.lower import float_tail
from earshot.lower.descriptors import output_to
from earshot.lower.tosa_executor.executor import Executor
from earshot.model.subsampling import OutputGrid
from earshot.tokenizer import read_pieces

GRAPH, REPORT, PROGRAM_REPORT, FRONT_END, PIECES = "graph.tosa", "graph.json", "quantize.json", "front_end.json", "tokenizer.pieces"


def to_integers(x: torch.Tensor, end: dict[str, Any]) -> np.ndarray:
    """Floats [...] to the integers [1, ...] that an end of a graph takes."""
    inverse = torch.tensor(1.0 / end["scale"], dtype=torch.float32)  # as ExecuTorch's and PyTorch's kernels do: multiply by the inverse
    integers = torch.round(x[None].float() * inverse) + end["zero_point"]
    return integers.clamp(end["min"], end["max"]).numpy().astype(end["dtype"])


def to_floats(integers: np.ndarray, end: dict[str, Any]) -> torch.Tensor:
    """The integers [1, ...] that an end of a graph gives to floats [...]."""
    return (torch.from_numpy(integers[0].astype(np.int32)) - end["zero_point"]).float() * torch.tensor(end["scale"], dtype=torch.float32)


def as_tosa(integers: np.ndarray) -> np.ndarray:
    """Integers as a graph holds them: TOSA has no unsigned types, its RESCALE takes the same bits for unsigned."""
    return integers.view(f"int{8 * integers.itemsize}")


class IntegerGraph:
    """The graph of a program or variant: features [window_frames, n_mels] to logits [T', V]. Can be pickled, for several processes."""

    def __init__(self, folder: str | Path) -> None:
        """Read a program directory, or a variant directory that was compiled from it.

        Raises:
            ArtifactError: a file is absent or damaged, or the program could not be lowered.
        """
        folder = Path(folder)
        self.path = folder / GRAPH
        self.boundary = read_json(folder / REPORT)
        if self.boundary["status"] != "ok":
            raise ArtifactError(f"{folder / REPORT}: the program was not lowered ({self.boundary['reason']}); choose another quant")
        self.inputs, self.outputs = [self.boundary["input"]], [self.boundary["output"]]
        self.front_end, self.pieces = FrontEnd.load(folder / FRONT_END), read_pieces(folder / PIECES)
        self.window_frames = self.boundary["input"]["shape"][1]
        self.grid = OutputGrid(read_json(folder / PROGRAM_REPORT)["subsampling_stages"])
        if not self.path.is_file():
            raise ArtifactError(f"{self.path}: no such file; run the tosa step")
        self._graph = self.path.read_bytes()
        if hashlib.sha256(self._graph).hexdigest() != self.boundary["graph_sha256"]:  # a damaged graph can end the process in native code
            raise ArtifactError(f"{self.path}: damaged, not the graph that was compiled; delete it and run the tosa step again")
        tail = self.boundary.get("float_tail")
        self._tail = float_tail.FloatLayers(folder / float_tail.TAIL, tail["sha256"]) if tail else None

    def quantize(self, *floats: torch.Tensor) -> tuple[np.ndarray, ...]:
        """Floats [...] to integers [1, ...], for each input: features [window_frames, n_mels], and the cache where there is one."""
        return tuple(to_integers(x, end) for x, end in zip(floats, self.inputs, strict=True))

    def dequantize(self, *integers: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Integers [1, ...] to floats [...], of each output: logits [T', V], and the cache where there is one.

        Where the scheme leaves the last layers in floats, the logits are what these make of the graph's first output.
        """
        first, *others = (to_floats(one, end) for one, end in zip(integers, self.outputs, strict=True))
        return (self._tail(first) if self._tail else first, *others)

    @cached_property
    def _executor(self) -> Executor:
        return Executor(self._graph, self.path)

    def run(self, *integers: np.ndarray) -> tuple[np.ndarray, ...]:
        """Integers in, integers out, as `quantize` gives and `dequantize` takes them.

        Raises:
            ArtifactError: the graph has an operator that the executor does not know, or it overflows: what it computes is not defined.
        """
        found = self._executor.run(*map(as_tosa, integers))
        return tuple(found[name].view(end["dtype"]) for name, end in zip(self._executor.outputs, self.outputs, strict=True))

    def intermediates(self, *integers: np.ndarray, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Tensors of the graph that these integers give, by their names, as earshot.lower.module_names has them, and the outputs.

        Raises:
            ArtifactError: as `run`, or a name is of no tensor.
        """
        return self._executor.run(*map(as_tosa, integers), keep=names)

    def reference(self, *integers: np.ndarray) -> tuple[np.ndarray, ...] | None:
        """What TOSA's reference model computes, slowly; None where it says that the result is not defined, by an overflow for example.

        Raises:
            ArtifactError: the reference model cannot run the graph.
        """
        try:
            with output_to(os.devnull):  # a notice at each run that the graph is of TOSA 1.0
                outputs, status = tosa_reference_model.run(self._graph, list(map(as_tosa, integers)), verbosity="LOW")
        except Exception as error:  # the reference model raises what its native code throws
            raise ArtifactError(
                f"{self.path}: cannot be run ({str(error).strip()[:200]}); delete it and run the tosa step again"
            ) from error
        if status == tosa_reference_model.GraphStatus.TOSA_UNPREDICTABLE:
            return None
        outputs = [one.view(end["dtype"]) for one, end in zip(outputs, self.outputs, strict=True)]
        found = [(list(one.shape), str(one.dtype)) for one in outputs]
        if status != tosa_reference_model.GraphStatus.TOSA_VALID or found != [(end["shape"], end["dtype"]) for end in self.outputs]:
            raise ArtifactError(f"{self.path}: gave no valid result ({status.name}); delete it and run the tosa step again")
        return tuple(outputs)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        (logits,) = self.dequantize(*self.run(*self.quantize(features)))
        return logits
