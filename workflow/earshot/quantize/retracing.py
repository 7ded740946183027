"""Retracing graphs without computing again what is known.

Each of some fifty passes of a lowering runs every operator of the graph on fake tensors (shapes and types without numbers) and records
what it calls as the next graph. Nearly all operators are those of the pass before on tensors of the same shape and type: within
`remembered_results` what they give is looked up. It follows from operator, shapes, types and constants alone, so the graphs are the same.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from executorch.exir.dialects.edge._ops import EdgeOpOverload
from executorch.exir.pass_base import ProxyValue, _ExportPassBase
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse
from torch._export.pass_infra.proxy_value import ProxyValue as TorchProxyValue
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Proxy
from torch.fx.immutable_collections import immutable_list

# The two bases of passes that retrace, which are written alike, and what their passes hand from operator to operator.
BASES = (_ExportPassBase, ProxyValue), (_ExportPassBaseDeprecatedDoNotUse, TorchProxyValue)
VALUES = tuple(value for _, value in BASES)
NAMESPACES = ("aten", "tosa", "quantized_decomposed", "dim_order_ops")  # operators without a state
IMPURE = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.inplace_view,
    torch.Tag.nondeterministic_seeded,
)
CONSTANTS = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class _Unknown(Exception):
    """An argument that the memory cannot compare."""


@functools.cache
def _pure(operator: Any) -> bool:
    overload = operator._op if isinstance(operator, EdgeOpOverload) else operator
    if not isinstance(overload, torch._ops.OpOverload):
        return False
    return overload.namespace in NAMESPACES and not overload._schema.is_mutable and not any(tag in overload.tags for tag in IMPURE)


def _key(value: Any) -> Any:
    """What two arguments are compared by: fake tensors by all that a fake operator looks at, constants by type and value."""
    kind = type(value)
    if kind is FakeTensor:
        size, stride = tuple(value.shape), value.stride()
        if value.constant is not None or not all(type(n) is int for n in size):  # numbers that count, or sizes that are not known yet
            raise _Unknown
        return FakeTensor, size, stride, value.storage_offset(), value.dtype, value.device, value.layout, value.requires_grad
    if kind in (list, tuple, immutable_list, torch.Size):
        return (list, *map(_key, value))
    if kind in CONSTANTS:
        return kind, value
    raise _Unknown


class _Memory:
    """Results of operators on fake tensors, by operator and arguments."""

    def __init__(self) -> None:
        self._results: dict[Any, Any] = {}
        self._modes: list[Any] = []  # an id stands for its object only while that lives

    def call(self, run: Callable[..., Any], mode: Any, operator: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """`run(operator, args, kwargs)` of an operator without a state, or what it gave the last time."""
        try:
            key = (operator, id(mode), _key(args), *((name, _key(value)) for name, value in kwargs.items()))
        except _Unknown:
            return run(operator, args, kwargs)
        if key not in self._results:
            self._results[key] = run(operator, args, kwargs)
            self._modes.append(mode)
        return self._results[key]


def _replaced(value: Any, attribute: str) -> Any:
    """An argument with its proxy values replaced by their `data` or `proxy`."""
    kind = type(value)
    if kind in VALUES:
        return getattr(value, attribute)
    if kind in (list, tuple):
        return kind([_replaced(item, attribute) for item in value])
    if kind is immutable_list:
        return [_replaced(item, attribute) for item in value]
    return {key: _replaced(item, attribute) for key, item in value.items()} if kind is dict else value


def _create_direct(create_arg: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`create_arg` of a tracer, without its questions to a proxy or a constant, of which it makes the node and the constant."""

    def direct(self: Any, argument: Any) -> Any:
        if type(argument) is Proxy:
            return argument.node
        return argument if type(argument) in CONSTANTS else create_arg(self, argument)

    return direct


@contextlib.contextmanager
def remembered_results() -> Iterator[None]:
    """Look up what operators give, for all passes of ExecuTorch and of torch.export that run within the block."""
    memory = _Memory()
    with contextlib.ExitStack() as stack:
        for base, value in BASES:
            stack.enter_context(_looking_up(memory, base, value))
        yield


@contextlib.contextmanager
def _looking_up(memory: _Memory, base: type, value: type) -> Iterator[None]:
    tracer, record, create_arg = base.ExportTracer, base._fx, base.ExportTracer.create_arg

    def looked_up(self: Any, kind: str, target: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if kind != "call_function" or not _pure(target):
            return record(self, kind, target, args, kwargs, meta)
        run = self.interpreter.call_function
        result = memory.call(run, self.fake_tensor_mode, target, _replaced(args, "data"), _replaced(kwargs, "data"))
        name = self.tracer.graph._target_to_str(target.overloadpacket.__name__) if isinstance(target, torch._ops.OpOverload) else None
        proxy = self.tracer.create_proxy(kind, target, _replaced(args, "proxy"), _replaced(kwargs, "proxy"), name=name)
        proxy.node.meta.update(meta.data)
        self.tracer.set_metadata(proxy.node, result)
        return value(result, proxy)

    base._fx, tracer.create_arg = looked_up, _create_direct(create_arg)
    try:
        yield
    finally:
        base._fx, tracer.create_arg = record, create_arg
