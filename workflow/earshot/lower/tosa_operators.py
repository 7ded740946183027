"""What a serialized TOSA graph holds: operators with their attributes, the tensors that join them, and how much each one multiplies."""

from __future__ import annotations

import functools
import importlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tosa.Attribute import Attribute
from tosa.DType import DType
from tosa.Op import Op
from tosa.TosaGraph import TosaGraph

from earshot.errors import ArtifactError


def _names(enumeration: type) -> dict[int, str]:
    return {code: name for name, code in vars(enumeration).items() if isinstance(code, int)}


_KINDS, _DTYPES, _ATTRIBUTES = _names(Op), _names(DType), _names(Attribute)
_CONSTANTS = ("CONST", "CONST_SHAPE")
_WITH_WEIGHTS = ("CONV2D", "CONV3D", "DEPTHWISE_CONV2D", "TRANSPOSE_CONV2D")


@dataclass(frozen=True)
class Operator:
    """An operator of the graph, in the order of the file, which is an order of execution."""

    kind: str  # TOSA's name
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int  # multiply-accumulates that it is defined by, 0 for those that do not multiply and add
    attributes: Mapping[str, Any] = field(default_factory=dict)  # by the names of TOSA's schema in CamelCase; lists as tuples

    @property
    def is_constant(self) -> bool:
        return self.kind in _CONSTANTS

    @property
    def weights(self) -> str | None:
        """The name of the tensor of weights."""
        return self.inputs[1] if self.kind in _WITH_WEIGHTS else None


@dataclass(frozen=True)
class Tensor:
    """A tensor as the file declares it; a constant has `data`, bytes in little-endian order."""

    shape: tuple[int, ...]
    dtype: str  # TOSA's name, SHAPE for a constant shape
    data: np.ndarray | None = None  # [bytes] of uint8

    def values(self) -> np.ndarray:
        """The numbers of a constant, int64, in the tensor's shape.

        Raises:
            ArtifactError: not integers, or too few bytes.
        """
        count = math.prod(self.shape)
        if self.data is None:
            raise ArtifactError("a constant without data")
        data = np.ascontiguousarray(self.data)
        if self.dtype in _STORED:
            width = np.dtype(_STORED[self.dtype]).itemsize
            flat = data[: len(data) // width * width].view(_STORED[self.dtype])
        elif self.dtype == "INT4":  # two to a byte, the first one in the low half
            halves = np.stack([data & 15, data >> 4], axis=1).reshape(-1).astype(np.int64)
            flat = np.where(halves > 7, halves - 16, halves)
        elif self.dtype == "INT48":
            octets = data[: len(data) // 6 * 6].reshape(-1, 6).astype(np.int64)
            unsigned = (octets << np.arange(0, 48, 8)).sum(axis=1)
            flat = np.where(unsigned >= 1 << 47, unsigned - (1 << 48), unsigned)
        else:
            raise ArtifactError(f"a constant of type {self.dtype}, and only integers are known")
        if len(flat) < count:
            raise ArtifactError(f"a constant of shape {list(self.shape)} with {len(flat)} numbers")
        return flat[:count].astype(np.int64).reshape(self.shape)


_ANYWHERE = (ValueError, LookupError, TypeError, AttributeError, ImportError, struct.error)  # where a damaged file leads the reader
_STORED = {"BOOL": "<i1", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "SHAPE": "<i8"}


@dataclass(frozen=True)
class Graph:
    """A graph of one block."""

    operators: list[Operator]
    tensors: dict[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read(path: Path) -> list[Operator]:
    """The operators of a serialized graph.

    Raises:
        ArtifactError: no TOSA graph of one block.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: no TOSA graph ({error}); run the tosa step") from error
    return read_graph(content, path).operators


def read_graph(content: bytes, path: Path) -> Graph:
    """A serialized graph; `path` is where it was read, for messages.

    Raises:
        ArtifactError: no TOSA graph of one block.
    """
    try:
        graph = TosaGraph.GetRootAs(content, 0)
        if graph.RegionsLength() != 1 or graph.Regions(0).BlocksLength() != 1:
            raise ValueError("it has several blocks")
        block = graph.Regions(0).Blocks(0)
        tensors = {tensor.Name().decode(): _tensor(tensor) for tensor in (block.Tensors(i) for i in range(block.TensorsLength()))}
        for shape in (block.Shapes(i) for i in range(block.ShapesLength())):
            tensors[shape.Name().decode()] = Tensor((shape.Rank(),), "SHAPE", _data(shape))
        operators = [_operator(block.Operators(i), tensors) for i in range(block.OperatorsLength())]
        inputs = tuple(block.Inputs(i).decode() for i in range(block.InputsLength()))
        outputs = tuple(block.Outputs(i).decode() for i in range(block.OutputsLength()))
    except _ANYWHERE as error:
        raise ArtifactError(f"{path}: no TOSA graph of one block ({error}); delete it and run the tosa step again") from error
    return Graph(operators, tensors, inputs, outputs)


def _tensor(tensor: Any) -> Tensor:
    return Tensor(tuple(tensor.Shape(i) for i in range(tensor.ShapeLength())), _DTYPES[tensor.Type()], _data(tensor))


def _data(holder: Any) -> np.ndarray | None:
    return holder.DataAsNumpy() if holder.DataLength() else None


def _operator(operator: Any, tensors: dict[str, Tensor]) -> Operator:
    inputs = tuple(operator.Inputs(i).decode() for i in range(operator.InputsLength()))
    outputs = tuple(operator.Outputs(i).decode() for i in range(operator.OutputsLength()))
    kind = _KINDS[operator.Op()]
    return Operator(kind, inputs, outputs, _macs(kind, inputs, outputs, tensors), _attributes(operator))


def _attributes(operator: Any) -> dict[str, Any]:
    """The attributes of an operator, whatever the schema says that its kind has."""
    name = _ATTRIBUTES[operator.AttributeType()]
    if name == "NONE":
        return {}
    kind, fields = _fields(name)
    table, found = kind(), {}
    raw = operator.Attribute()
    table.Init(raw.Bytes, raw.Pos)
    for field_name, is_list in fields:
        get = getattr(table, field_name)
        found[field_name] = tuple(get(i) for i in range(getattr(table, f"{field_name}Length")())) if is_list else get()
    return found


@functools.cache
def _fields(name: str) -> tuple[type, list[tuple[str, bool]]]:
    """The class that FlatBuffers generated for an attribute, and its fields: the name of each and whether it is a list."""
    kind = getattr(importlib.import_module(f"tosa.{name}"), name)
    helpers = ("Length", "AsNumpy", "IsNone", "HasIdentifier")
    methods = [one for one in vars(kind) if one[0].isupper() and one != "Init" and not one.startswith("GetRootAs")]
    return kind, [(one, f"{one}Length" in methods) for one in methods if not one.endswith(helpers)]


def _macs(kind: str, inputs: tuple[str, ...], outputs: tuple[str, ...], tensors: dict[str, Tensor]) -> int:
    """Multiply-accumulates by the definitions of TOSA 1.0, where tensors are channel-last."""
    if kind in ("CONV2D", "CONV3D"):  # weights [C_out, kernel ..., C_in]
        return math.prod(tensors[outputs[0]].shape) * math.prod(tensors[inputs[1]].shape[1:])
    if kind == "DEPTHWISE_CONV2D":  # weights [K_h, K_w, C_in, multiplier]
        return math.prod(tensors[outputs[0]].shape) * math.prod(tensors[inputs[1]].shape[:2])
    if kind == "TRANSPOSE_CONV2D":  # weights [C_out, K_h, K_w, C_in]: each value of the input meets every kernel
        return math.prod(tensors[inputs[0]].shape) * math.prod(tensors[inputs[1]].shape[:3])
    if kind == "MATMUL":  # [N, H, C] by [N, C, W]
        return math.prod(tensors[outputs[0]].shape) * tensors[inputs[0]].shape[2]
    return 0
