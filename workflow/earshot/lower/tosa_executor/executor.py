"""A TOSA graph that is prepared once and run many times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from earshot.errors import ArtifactError
from earshot.lower import tosa_operators
from earshot.lower.tosa_executor import elementwise, products, shaping
from earshot.lower.tosa_executor.bounds import Function
from earshot.lower.tosa_executor.rescale import rescale
from earshot.lower.tosa_executor.values import NUMPY, RANGES, Node, Step, Value

PREPARE: dict[str, Callable[[Node], Step]] = {
    "ABS": elementwise.absolute,
    "ADD": elementwise.add,
    "CLAMP": elementwise.clamp,
    "CONCAT": shaping.concat,
    "CONV2D": products.convolution,
    "DEPTHWISE_CONV2D": products.depthwise,
    "IDENTITY": shaping.identity,
    "MATMUL": products.matmul,
    "MAXIMUM": elementwise.maximum,
    "MAX_POOL2D": elementwise.max_pool,
    "MINIMUM": elementwise.minimum,
    "MUL": elementwise.multiply,
    "NEGATE": elementwise.negate,
    "PAD": shaping.pad,
    "REDUCE_MAX": elementwise.reduce_max,
    "REDUCE_MIN": elementwise.reduce_min,
    "REDUCE_SUM": elementwise.reduce_sum,
    "RESCALE": rescale,
    "RESHAPE": shaping.reshape,
    "REVERSE": shaping.reverse,
    "SLICE": shaping.cut,
    "SUB": elementwise.subtract,
    "TABLE": elementwise.table,
    "TILE": shaping.tile,
    "TRANSPOSE": shaping.transpose,
}


@dataclass(frozen=True)
class _Call:
    """A step in its place: by the names of tensors."""

    function: Function
    operands: tuple[str, ...]
    output: str
    number: torch.dtype
    last: tuple[str, ...]  # tensors that no later step reads


class Executor:
    """A graph, run on integers. It can be pickled."""

    def __init__(self, content: bytes, path: Path) -> None:
        """Prepare a serialized graph; `path` is where it was read, for messages.

        Raises:
            ArtifactError: no graph, or it has an operator, attribute or type that is not known: the message names it.
        """
        graph = tosa_operators.read_graph(content, path)
        self.path, self.inputs, self.outputs = path, graph.inputs, graph.outputs
        self._values: dict[str, Value] = {}
        self._constants: dict[str, torch.Tensor] = {}  # those that steps take part of as tensors
        try:
            self._calls = self._prepare(graph)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error
        except (ValueError, LookupError, TypeError, RuntimeError) as error:  # shapes that do not fit each other, for example
            raise ArtifactError(f"{path}: cannot be prepared ({error!r}); delete it and run the tosa step again") from error

    def _prepare(self, graph: tosa_operators.Graph) -> list[_Call]:
        values = self._values
        values |= {name: self._declared(graph, name, "input") for name in self.inputs}
        steps: list[tuple[Step, tuple[str, ...], str]] = []
        for operator in graph.operators:
            name = operator.outputs[0]
            if operator.is_constant:
                tensor = graph.tensors[name]
                values[name] = Value.constant(tensor.values(), tensor.dtype)
                continue
            if operator.kind not in PREPARE or len(operator.outputs) != 1:
                raise ArtifactError(f"operator {operator.kind} ({name}) is not known to this executor")
            declared = self._declared(graph, name, operator.kind)
            step = PREPARE[operator.kind](Node(operator, [values[one] for one in operator.inputs], graph.tensors[name]))
            operands = tuple(operator.inputs[i] for i in step.operands)
            if all(values[one].data is not None for one in operands):
                data = step.function(*(values[one].tensor() for one in operands)).long().reshape(declared.shape)
                values[name] = Value.constant(data.contiguous().numpy(), declared.dtype)
                continue
            values[name] = Value(declared.shape, declared.dtype, step.low, step.high)
            steps.append((step, operands, name))
        return self._placed(steps)

    def _declared(self, graph: tosa_operators.Graph, name: str, what: str) -> Value:
        tensor = graph.tensors[name]
        if tensor.dtype not in RANGES:
            raise ArtifactError(f"{what} {name} of type {tensor.dtype} is not known to this executor, which takes integers")
        return Value.of(tensor)

    def _placed(self, steps: list[tuple[Step, tuple[str, ...], str]]) -> list[_Call]:
        """The steps with what each is the last to read, and the constants that they read."""
        last: dict[str, int] = {}
        for i, (_, operands, name) in enumerate(steps):
            for one in (*operands, name):
                last[one] = i
        for name in last:
            if self._values[name].data is not None:
                self._constants[name] = self._values[name].tensor()
        free: list[list[str]] = [[] for _ in steps]
        for name, i in last.items():
            if name not in self.outputs and name not in self._constants:
                free[i].append(name)
        return [
            _Call(step.function, operands, name, self._values[name].number, tuple(free[i]))
            for i, (step, operands, name) in enumerate(steps)
        ]

    def run(self, *integers: np.ndarray, keep: Iterable[str] = ()) -> dict[str, np.ndarray]:
        """What the graph computes of its inputs: its outputs, and the tensors of the names `keep`, in their types (INT48 as int64).

        Raises:
            ArtifactError: an input does not fit; a result leaves its type, so that what follows is not defined; a name is of no tensor.
        """
        entries, wanted = [self._values[name] for name in self.inputs], {*self.outputs, *keep}
        if [(one.shape, NUMPY[one.dtype]) for one in entries] != [(tuple(given.shape), given.dtype) for given in integers]:
            takes = ", ".join(f"{one.dtype} {list(one.shape)}" for one in entries)
            raise ArtifactError(f"{self.path}: takes {takes}, not {', '.join(f'{one.dtype} {list(one.shape)}' for one in integers)}")
        if unknown := sorted(wanted - set(self._values)):
            raise ArtifactError(f"{self.path}: has no tensor {unknown[0]}")
        tensors = dict(self._constants)
        given = dict(zip(self.inputs, integers, strict=True))
        tensors |= {name: torch.from_numpy(given[name]).to(self._values[name].number) for name in self.inputs}
        found = {name: data for name in wanted if (data := self._values[name].data) is not None}
        found |= {name: given[name] for name in wanted & set(self.inputs)}
        try:
            with torch.inference_mode():
                for call in self._calls:
                    result = call.function(*[tensors[name] for name in call.operands])
                    tensors[call.output] = result = result if result.dtype == call.number else result.to(call.number)
                    if call.output in wanted:
                        found[call.output] = result.cpu().numpy()
                    for name in call.last:
                        del tensors[name]
        except ArtifactError as error:
            raise ArtifactError(f"{self.path}: {error}") from error
        return {name: array.astype(NUMPY.get(self._values[name].dtype, np.int64)) for name, array in found.items()}
