"""Retracing graphs without computing again what is known.

Each of some fifty passes of a lowering runs every operator of the graph on fake tensors (shapes and types without numbers) and records
what it calls as the next graph. Nearly all operators are those of the pass before on tensors of the same shape and type: within
`remembered_results` what they give is looked up. It follows from operator, shapes, types and constants alone, so the graphs are the same.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from executorch.exir.delegate import executorch_call_delegate
from executorch.exir.dialects.edge._ops import EdgeOpOverload
from executorch.exir.lowered_backend_module import LoweredBackendModule
from executorch.exir.pass_base import ProxyValue, _ExportPassBase
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse
from torch._export.pass_infra.proxy_value import ProxyValue as TorchProxyValue
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.immutable_collections import immutable_list

from earshot.quantize.recording import append_call, brisk_walks
from earshot.quantize.replacing import replaced

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
CONSTANTS = {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}


class _Unknown(Exception):
    """An argument that the memory cannot compare."""


@functools.cache
def _pure(operator: Any) -> bool:
    overload = operator._op if isinstance(operator, EdgeOpOverload) else operator
    if not isinstance(overload, torch._ops.OpOverload):
        return False
    return overload.namespace in NAMESPACES and not overload._schema.is_mutable and not any(tag in overload.tags for tag in IMPURE)


def _of_tensor(value: FakeTensor) -> Any:
    """All of a fake tensor that a fake operator looks at."""
    size = tuple(value.shape)
    if value.constant is not None or not all(type(n) is int for n in size):  # numbers that count, or sizes that are not known yet
        raise _Unknown
    return FakeTensor, size, value.stride(), value.storage_offset(), value.dtype, value.device, value.layout, value.requires_grad


def _of_data(value: Any) -> Any:
    """What two results of operators are compared by: fake tensors by all that an operator looks at, constants by type and value."""
    kind = type(value)
    if kind is FakeTensor:
        return _of_tensor(value)
    if kind in CONSTANTS:
        return kind, value
    if kind in (list, tuple, immutable_list, torch.Size):
        return (list, *map(_of_data, value))
    raise _Unknown


def _taken(value: Any) -> tuple[Any, Any, Any]:
    """An argument that a pass hands on: as the operator takes it, as the node has it, and what two of its kind are compared by.

    Raises:
        _Unknown: it is none that the memory can compare.
    """
    kind = type(value)
    if kind in VALUES:
        return value.data, value.proxy.node, _of_data(value.data)
    if kind in CONSTANTS:
        return value, value, (kind, value)
    if kind in (list, tuple, immutable_list):
        kinds = set(map(type, value))
        if kinds <= CONSTANTS:  # hundreds of numbers, often
            plain = tuple(value) if kind is tuple else list(value)
            return plain, plain, (list, next(iter(kinds)), *value) if len(kinds) == 1 else (list, *((type(one), one) for one in value))
        parts = [_taken(item) for item in value]
        made = tuple if kind is tuple else list
        return made(part[0] for part in parts), made(part[1] for part in parts), (list, *(part[2] for part in parts))
    raise _Unknown


class _Memory:
    """Results of operators on fake tensors, by operator and arguments."""

    def __init__(self) -> None:
        self._results: dict[Any, Any] = {}
        self._modes: list[Any] = []  # an id stands for its object only while that lives

    def call(self, run: Callable[..., Any], mode: Any, operator: Any, args: Any, kwargs: dict[str, Any], key: Any) -> Any:
        """`run(operator, args, kwargs)` of an operator without a state, or what it gave the last time for arguments with this key."""
        key = operator, id(mode), key
        if key not in self._results:
            self._results[key] = run(operator, args, kwargs)
            self._modes.append(mode)
        return self._results[key]


@contextlib.contextmanager
def remembered_results() -> Iterator[None]:
    """Look up what operators give, for all passes of ExecuTorch and of torch.export that run within the block."""
    memory = _Memory()
    with contextlib.ExitStack() as stack:
        for base, value in BASES:
            stack.enter_context(_looking_up(memory, base, value))
        stack.enter_context(brisk_walks(_ExportPassBase))
        yield


def given_by_delegate(module: LoweredBackendModule, inputs: Sequence[FakeTensor], mode: Any) -> tuple[FakeTensor, ...] | None:
    """What the operators that a delegate took give for `inputs`, as their graph has it; None where that cannot be told from the graph."""
    signature, nodes = module.original_module.graph_signature, {node.name: node for node in module.original_module.graph.nodes}
    taken, given = ([nodes[name].meta.get("val") for name in names] for names in (signature.user_inputs, signature.user_outputs))
    if signature.buffers_to_mutate or not all(type(value) is FakeTensor and value.fake_mode is mode for value in (*inputs, *taken, *given)):
        return None
    try:
        return tuple(given) if [*map(_of_tensor, inputs)] == [*map(_of_tensor, taken)] else None
    except _Unknown:
        return None


def _delegate_recorded(caller: Any, record: Callable[..., Any], args: Any, kwargs: Any, meta: Any) -> Any:
    """The call of a delegate in the next graph, whose operators are not run one by one to learn what they give."""
    module, *values = args
    given = given_by_delegate(module, [value.data for value in values if type(value) in VALUES], caller.fake_tensor_mode)
    if given is None:
        return record(caller, "call_function", executorch_call_delegate, args, kwargs, meta)
    interpreter, caller.interpreter = caller.interpreter, SimpleNamespace(call_function=lambda target, args, kwargs: given)
    try:
        return record(caller, "call_function", executorch_call_delegate, args, kwargs, meta)
    finally:
        caller.interpreter = interpreter


@contextlib.contextmanager
def _looking_up(memory: _Memory, base: Any, value: type) -> Iterator[None]:
    record = base._fx

    def looked_up(self: Any, kind: str, target: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if target is executorch_call_delegate:
            return _delegate_recorded(self, record, args, kwargs, meta)
        if kind != "call_function" or not _pure(target):
            return record(self, kind, target, args, kwargs, meta)
        try:
            data, nodes, key = _taken(tuple(args))
            named = {name: _taken(one) for name, one in kwargs.items()}
        except _Unknown:
            return record(self, kind, target, args, kwargs, meta)
        key = key, *((name, one[2]) for name, one in named.items())
        named_data = {name: one[0] for name, one in named.items()}
        result = memory.call(self.interpreter.call_function, self.fake_tensor_mode, target, data, named_data, key)
        proxy = append_call(self.tracer, target, nodes, {name: one[1] for name, one in named.items()}, meta.data)
        if proxy is None:
            return record(self, kind, target, args, kwargs, meta)
        if type(result) is FakeTensor:
            proxy.node.meta["val"], proxy.node.meta["tensor_meta"] = result, None
        else:
            self.tracer.set_metadata(proxy.node, result)
        return value(result, proxy)

    with replaced(base, "_fx", looked_up):
        yield
