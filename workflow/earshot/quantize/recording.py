"""Writing the nodes of the next graph without asking what is known.

A pass that retraces writes each node anew: its arguments, its name, and what is noted beside it. torch's tracers do so for arguments of any
kind and for modes that no lowering is in; `append_call` does so for a call of an operator whose arguments were already looked through, and
leaves everything else to the tracer. Nodes, names and notes are the same (tests/unit/test_shortcuts.py compares).
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch._library.utils import get_layout_constraint_tag
from torch.fx import Graph, Node, Proxy
from torch.fx import traceback as fx_traceback
from torch.fx.immutable_collections import immutable_dict
from torch.fx.proxy import _COPY_META_FIELDS, _get_seq_nr
from torch.fx.traceback import GRADIENT_ACC_SPECIAL_STACK, NodeSource, NodeSourceAction

from earshot.quantize.replacing import replaced


@functools.cache
def _candidate_name(target: Any, overload: bool) -> str:
    return Graph()._target_to_str(target.overloadpacket.__name__ if overload else target)


@functools.cache
def _plain(target: Any) -> bool:
    """Whether nothing is noted of a call but what the current notes say."""
    return not isinstance(target, torch._ops.OpOverload) or get_layout_constraint_tag(target) != torch.Tag.needs_exact_strides


def append_call(tracer: Any, target: Any, args: tuple, kwargs: dict[str, Any], notes: dict[str, Any]) -> Proxy | None:
    """A proxy of a new node at the end of `tracer`'s graph that calls `target`; None where the tracer itself has to write it.

    Args:
        args, kwargs: nodes and constants, in tuples, lists and dictionaries.
        notes: what is to stand beside the node; the notes of the node that is being run, where these have what `notes` lack.
    """
    graph, current = tracer.graph, fx_traceback.current_meta
    stack = current.get("stack_trace")
    ordinary = (
        fx_traceback.should_preserve_node_meta
        and fx_traceback.current_replay_node is None
        and graph.owning_module is None
        and not tracer.check_mutable_operations
        and not tracer.record_stack_traces
        and not current.get("autograd_backward", False)
        and not current.get("in_grad_fn", 0)
        and not (stack and GRADIENT_ACC_SPECIAL_STACK in stack)
        and _plain(target)
    )
    if not ordinary:
        return None
    names = graph._graph_namespace
    name = names.create_name(_candidate_name(target, isinstance(target, torch._ops.OpOverload)), None)
    node = Node(graph, name, "call_function", target, args, kwargs or immutable_dict(), None)
    names.associate_name_with_obj(name, node)
    graph._insert(node)
    graph._find_nodes_lookup_table.insert(node)
    graph._len += 1
    tracer.node_name_to_scope[name] = tracer.scope.module_path, tracer.scope.module_type
    beside = node.meta
    if stack:
        beside["stack_trace"] = stack
    for field in _COPY_META_FIELDS:
        if field in current:
            beside[field] = notes[field] if field in notes else copy.copy(current[field])
    number = notes["seq_nr"] if "seq_nr" in notes else _get_seq_nr(name)
    if number is not None:
        beside["seq_nr"] = number
    beside.update(notes)
    return tracer.proxy(node)


class _Described:
    """`node_debug_str` of a pass, the text of the node that is being run: written when it is asked for."""

    def __get__(self, callback: Any, owner: type) -> Any:
        described = None if callback is None else callback.__dict__.get("node_debug_str")
        return described.format_node() if isinstance(described, Node) else described

    def __set__(self, callback: Any, described: Any) -> None:
        callback.__dict__["node_debug_str"] = described


@functools.cache
def _text(target: Any) -> str:
    return str(target)


def _source(node: Node, pass_name: str) -> NodeSource:
    """NodeSource(node, pass_name, NodeSourceAction.CREATE), which shares the sources before it."""
    source = NodeSource(None, pass_name, NodeSourceAction.CREATE)
    source.node_info = NodeSource.NodeInfo(node.name, _text(node.target), id(node.graph))
    source.from_node = list(node.meta.get("from_node", ()))
    return source


def _run_node(self: Any, node: Node) -> Any:
    """`run_node` of a pass that retraces; the notes of `node` are the current ones meanwhile."""
    self.node = node
    self.callback.node_debug_str = node
    before, noted = fx_traceback.current_meta, fx_traceback.should_preserve_node_meta and node.meta
    if noted:
        current = node.meta.copy()
        current["from_node"] = [_source(node, f"Interpreter_{type(self).__name__}")]
        fx_traceback.current_meta = current
    try:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        return getattr(self, node.op)(node.target, args, kwargs)
    finally:
        if noted:
            fx_traceback.current_meta = before


@contextlib.contextmanager
def brisk_walks(base: Any) -> Iterator[None]:
    """Walk through the graphs of passes of this base without describing each node in words."""
    with replaced(base, "node_debug_str", _Described()), replaced(base.ExportInterpreter, "run_node", _run_node):
        yield
