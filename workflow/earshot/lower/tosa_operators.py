"""The operators of a TOSA graph: kinds, tensors that join them, and the multiplications that each one asks for."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from tosa.Op import Op
from tosa.TosaGraph import TosaGraph

from earshot.errors import ArtifactError

_KINDS = {code: name for name, code in vars(Op).items() if isinstance(code, int)}
_CONSTANTS = ("CONST", "CONST_SHAPE")
_WITH_WEIGHTS = ("CONV2D", "CONV3D", "DEPTHWISE_CONV2D", "TRANSPOSE_CONV2D")


@dataclass(frozen=True)
class Operator:
    """An operator of the graph, in the order of the file, which is an order of execution."""

    kind: str  # TOSA's name
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int  # multiply-accumulates that it is defined by, 0 for those that do not multiply and add

    @property
    def is_constant(self) -> bool:
        return self.kind in _CONSTANTS

    @property
    def weights(self) -> str | None:
        """The name of the tensor of weights."""
        return self.inputs[1] if self.kind in _WITH_WEIGHTS else None


def read(path: Path) -> list[Operator]:
    """The operators of a serialized graph.

    Raises:
        ArtifactError: no TOSA graph of one block.
    """
    try:
        graph = TosaGraph.GetRootAs(path.read_bytes(), 0)
        if graph.RegionsLength() != 1 or graph.Regions(0).BlocksLength() != 1:
            raise ValueError("it has several blocks")
        block = graph.Regions(0).Blocks(0)
        tensors = (block.Tensors(i) for i in range(block.TensorsLength()))
        shapes = {tensor.Name().decode(): [tensor.Shape(i) for i in range(tensor.ShapeLength())] for tensor in tensors}
        found = []
        for operator in (block.Operators(i) for i in range(block.OperatorsLength())):
            inputs = tuple(operator.Inputs(i).decode() for i in range(operator.InputsLength()))
            outputs = tuple(operator.Outputs(i).decode() for i in range(operator.OutputsLength()))
            kind = _KINDS[operator.Op()]
            found.append(Operator(kind, inputs, outputs, _macs(kind, inputs, outputs, shapes)))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:  # a damaged file leads the reader anywhere
        raise ArtifactError(f"{path}: no TOSA graph of one block ({error}); delete it and run the lower step again") from error
    return found


def _macs(kind: str, inputs: tuple[str, ...], outputs: tuple[str, ...], shapes: dict[str, list[int]]) -> int:
    """Multiply-accumulates by the definitions of TOSA 1.0, where tensors are channel-last."""
    if kind in ("CONV2D", "CONV3D"):  # weights [C_out, kernel ..., C_in]
        return math.prod(shapes[outputs[0]]) * math.prod(shapes[inputs[1]][1:])
    if kind == "DEPTHWISE_CONV2D":  # weights [K_h, K_w, C_in, multiplier]
        return math.prod(shapes[outputs[0]]) * math.prod(shapes[inputs[1]][:2])
    if kind == "TRANSPOSE_CONV2D":  # weights [C_out, K_h, K_w, C_in]: each value of the input meets every kernel
        return math.prod(shapes[inputs[0]]) * math.prod(shapes[inputs[1]][:3])
    if kind == "MATMUL":  # [N, H, C] by [N, C, W]
        return math.prod(shapes[outputs[0]]) * shapes[inputs[0]][2]
    return 0
