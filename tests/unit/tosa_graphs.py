"""Small TOSA graphs made with the installed serializer, and what TOSA's reference model says that they compute."""

import numpy as np
import tosa_reference_model
import tosa_serializer as ts

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

    def done(self, output: str) -> bytes:
        self.serializer.addOutputTensor(self.serializer.currRegion.currBasicBlock.tensors[output])
        return bytes(self.serializer.serialize())


def reference(content: bytes, *inputs: np.ndarray) -> np.ndarray | None:
    """What the reference model computes; None where it says that the result is not defined."""
    try:
        outputs, status = tosa_reference_model.run(content, list(inputs), verbosity="NONE")
    except Exception:  # what its native code throws
        return None
    return outputs[0] if status == tosa_reference_model.GraphStatus.TOSA_VALID else None
