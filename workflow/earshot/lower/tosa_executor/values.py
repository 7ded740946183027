"""What is known of a tensor before the graph runs: its type, and the range of its values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from earshot.errors import ArtifactError
from earshot.lower.tosa_executor.bounds import Function, checked
from earshot.lower.tosa_operators import Operator, Tensor

_BITS = {"INT4": 4, "INT8": 8, "INT16": 16, "INT32": 32, "INT48": 48}
RANGES = {name: (-(1 << bits - 1), (1 << bits - 1) - 1) for name, bits in _BITS.items()}
NUMPY = {"INT4": np.int8, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT48": np.int64}
EXACT_BITS = {torch.float32: 24, torch.float64: 53}  # integers up to two to this are held, and added, without rounding


def exact_number(magnitude: int) -> torch.dtype | None:
    """The narrowest type that holds every integer up to `magnitude`; None if there is none."""
    return next((dtype for dtype, bits in EXACT_BITS.items() if magnitude <= 1 << bits), None)


def number(magnitude: int) -> torch.dtype:
    """As `exact_number`, of magnitudes that are within TOSA's types: these have fewer than 53 bits."""
    found = exact_number(magnitude)
    assert found is not None, magnitude
    return found


@dataclass(frozen=True)
class Value:
    """A tensor of integers: at run time a torch tensor of type `number`, which holds them exactly."""

    shape: tuple[int, ...]
    dtype: str  # TOSA's name
    low: int
    high: int
    data: np.ndarray | None = field(default=None, compare=False)  # int64: the numbers of a constant

    @property
    def magnitude(self) -> int:
        return max(abs(self.low), abs(self.high))

    @property
    def number(self) -> torch.dtype:
        return number(self.magnitude)

    @classmethod
    def of(cls, tensor: Tensor) -> Value:
        """A tensor of which no more is known than its type."""
        return cls(tensor.shape, tensor.dtype, *RANGES[tensor.dtype])

    @classmethod
    def constant(cls, data: np.ndarray, dtype: str) -> Value:
        low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
        return cls(data.shape, dtype, low, high, data)

    def tensor(self) -> torch.Tensor:
        """The numbers of a constant as they take part in a run."""
        assert self.data is not None, "no constant"
        return torch.from_numpy(self.data).to(self.number)


@dataclass(frozen=True)
class Step:
    """A prepared operator; all of it can be pickled."""

    function: Function
    operands: tuple[int, ...]  # which inputs of the operator the function takes; the others are part of it
    low: int  # the range of what it gives
    high: int


@dataclass
class Node:
    """An operator that is being prepared, with what is known of its inputs."""

    operator: Operator
    inputs: list[Value]
    output: Tensor

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(self.operator.attributes)

    @property
    def title(self) -> str:
        return f"{self.operator.kind} {self.operator.outputs[0]}"

    def refuse(self, why: str) -> ArtifactError:
        return ArtifactError(f"{self.title}: {why}")

    def constant(self, index: int, what: str) -> np.ndarray:
        """The numbers of an input that must be a constant.

        Raises:
            ArtifactError: it is computed.
        """
        data = self.inputs[index].data
        if data is None:
            raise self.refuse(f"{what} that are computed are not known to this executor")
        return data

    def scalar(self, index: int, what: str) -> int:
        """The number of a constant input of one element."""
        data = self.constant(index, what)
        if data.size != 1:
            raise self.refuse(f"{what} of {data.size} numbers, and it must be one")
        return int(data.reshape(-1)[0])

    def known(self, *names: str) -> None:
        """Say which attributes are understood.

        Raises:
            ArtifactError: the operator has another one.
        """
        for name, value in self.operator.attributes.items():
            if name not in names:
                raise self.refuse(f"attribute {name} ({value}) is not known to this executor")

    def typed(self, index: int, *dtypes: str) -> Value:
        """An input that must be of one of these types."""
        if self.inputs[index].dtype not in dtypes:
            raise self.refuse(f"input {index} of type {self.inputs[index].dtype} is not known to this executor")
        return self.inputs[index]

    def step(self, function: Function, operands: Sequence[int], low: int, high: int) -> Step:
        """The operator as `function` of some of its inputs, with results in low ... high; the run ends if one leaves the output's type."""
        least, most = RANGES[self.output.dtype]
        if low < least or high > most:
            function = partial(checked, function=function, low=least, high=most, title=self.title)
        return Step(function, tuple(operands), max(low, least), min(high, most))
