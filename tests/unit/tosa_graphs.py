"""Small TOSA graphs made with the installed serializer, and what TOSA's reference model says that they compute."""

from pathlib import Path

import numpy as np
import pytest
import tosa_reference_model
import tosa_serializer as ts

from earshot.errors import ArtifactError
from earshot.lower.tosa_executor.executor import Executor

D = ts.DType
Rounding = ts.RoundingMode


class Graph:
    """A graph that is built operator by operator; every method returns the name of the tensor that it added."""

    def __init__(self) -> None:
        self.serializer = ts.TosaSerializer("", targetMajor=1, targetMinor=0, targetPatch=0, targetDraft=False)
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def input(self, shape, dtype) -> str:
        tensor = ts.TosaSerializerTensor(self.name(), list(shape), dtype, data=None)
        self.serializer.addInputTensor(tensor)
        return tensor.name

    def const(self, values, dtype) -> str:
        values = np.asarray(values)
        return self.serializer.addConst(list(values.shape), dtype, values.flatten().tolist(), name=self.name()).name

    def shape(self, values) -> str:
        return self.serializer.addConst([len(values)], D.SHAPE, list(values), name=self.name()).name

    def add(self, kind, inputs, shape, dtype, *attributes, **named) -> str:
        """Add an operator; its attributes are those of the serializer's method for this kind."""
        name = self.name()
        self.serializer.currRegion.currBasicBlock.addTensor(name, list(shape), dtype)
        attribute = ts.TosaSerializerAttribute()
        words = {"CONV2D": "Conv2d", "DEPTHWISE_CONV2D": "DepthwiseConv2d", "MATMUL": "MatMul", "MAX_POOL2D": "MaxPool2d"}
        method = words.get(kind) or "".join(word.capitalize() for word in kind.split("_"))
        getattr(attribute, f"{method}Attribute")(*attributes, **named)
        self.serializer.addOperator(getattr(ts.Op, kind), list(inputs), [name], attribute)
        return name

    def done(self, *outputs: str) -> bytes:
        for output in outputs:
            self.serializer.addOutputTensor(self.serializer.currRegion.currBasicBlock.tensors[output])
        return bytes(self.serializer.serialize())


def reference(content: bytes, *inputs: np.ndarray) -> np.ndarray | None:
    """What the reference model computes; None where it says that the result is not defined."""
    try:
        outputs, status = tosa_reference_model.run(content, list(inputs), verbosity="NONE")
    except Exception:  # what its native code throws
        return None
    return outputs[0] if status == tosa_reference_model.GraphStatus.TOSA_VALID else None


NUMPY = {D.INT8: np.int8, D.INT16: np.int16, D.INT32: np.int32}
MOST = 2**31 - 1


def executor(content: bytes) -> Executor:
    return Executor(content, Path("graph.tosa"))


def spread(shape, dtype, seed: int = 0) -> np.ndarray:
    """Numbers of the whole range of a type, both of its ends among them."""
    ends = np.iinfo(NUMPY[dtype])
    values = np.random.default_rng(seed).integers(ends.min, ends.max, shape, NUMPY[dtype], endpoint=True)
    values.flat[0], values.flat[-1] = ends.min, ends.max
    return values


def same(content: bytes, x: np.ndarray) -> np.ndarray:
    """What both compute: the same numbers of the same type, or nothing."""
    wanted, run = reference(content, x), executor(content)
    assert wanted is not None
    found = run.run(x)[run.outputs[0]]
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)
    return found


def refused(content: bytes, x: np.ndarray, why: str = "TOSA_UNPREDICTABLE") -> None:
    """Both say that the result is not defined."""
    assert reference(content, x) is None
    with pytest.raises(ArtifactError, match=why):
        executor(content).run(x)


def scaled(graph, x, shape, source, sink, multiplier, shift, zeros=(0, 0), mode=Rounding.SINGLE_ROUND, unsigned=(False, False)) -> str:
    """Add a RESCALE of x; it is per channel where `multiplier` is a list. `zeros` and `unsigned` are of the input and of the output."""
    wide = source == D.INT48
    numbers = graph.const(np.atleast_1d(multiplier), D.INT16 if wide else D.INT32), graph.const(np.atleast_1d(shift), D.INT8)
    inputs = [x, *numbers, graph.const([zeros[0]], source), graph.const([zeros[1]], sink)]
    named = {"scale32": not wide, "rounding_mode": mode, "per_channel": np.ndim(multiplier) > 0}
    return graph.add("RESCALE", inputs, shape, sink, **named, input_unsigned=unsigned[0], output_unsigned=unsigned[1])


def rescale(shape, source, *more, **named) -> bytes:
    """A graph of one RESCALE, see `scaled`."""
    graph = Graph()
    x = graph.input(shape, source)
    return graph.done(scaled(graph, x, shape, source, *more, **named))
