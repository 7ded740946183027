"""Decomposing each kind of call once.

torch decomposes a program by tracing all of it through three layers of modes, a few milliseconds an operator. A network repeats itself:
`decomposed` has torch decompose a program with the same inputs that makes one call of each kind, and writes what became of each into the
graph wherever the program makes a call of that kind. A kind is an operator with the layouts of its tensors and its constants.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.exported_program import _get_updated_module_call_graph
from torch.export.graph_signature import ExportGraphSignature, InputKind, OutputKind, OutputSpec, TensorArgument
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.fx.proxy import _COPY_META_FIELDS
from torch.fx.traceback import NodeSource, NodeSourceAction
from torch.utils import _pytree as pytree

WITHOUT_DECOMPOSITION = "quantized_decomposed"  # whatever their numbers are, which differ from call to call
INPUTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR, InputKind.USER_INPUT)
CONSTANTS = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class _Unsuited(Exception):
    """The program is to be decomposed as a whole: it holds what a call by itself does not tell."""


@dataclass(frozen=True)
class _Kind:
    """What became of a call: nodes of the small program in order, and which of them, or of its tensors, are the results."""

    nodes: tuple[Node, ...]
    tensors: dict[Node, int]  # those that stand for the tensors that the call takes, in the order in which it takes them
    results: tuple[Node, ...]


def _layout(value: Any) -> tuple:
    if type(value) is not FakeTensor or value.requires_grad or value.constant is not None or not all(type(n) is int for n in value.shape):
        raise _Unsuited
    return tuple(value.shape), value.stride(), value.dtype, value.device, value.layout


def _tensors(node: Node) -> list[Node]:
    """The tensors that a call takes, as often as it takes them."""
    return [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, Node)]


def _key(node: Node, values: dict[Node, Any]) -> tuple:
    if not isinstance(node.target, torch._ops.OpOverload):
        raise _Unsuited
    leaves, structure = pytree.tree_flatten((node.args, dict(node.kwargs)))
    if not all(isinstance(leaf, (Node, *CONSTANTS)) for leaf in leaves):
        raise _Unsuited
    numbers_count = node.target.namespace != WITHOUT_DECOMPOSITION
    # Which arguments are the same tensor is a part of the kind, too.
    order = {tensor: i for i, tensor in enumerate(dict.fromkeys(leaf for leaf in leaves if isinstance(leaf, Node)))}
    parts = [
        ("tensor", order[leaf], _layout(values[leaf])) if isinstance(leaf, Node) else (type(leaf), leaf if numbers_count else None)
        for leaf in leaves
    ]
    return node.target, str(structure), *parts


def _values(program: ExportedProgram) -> dict[Node, Any]:
    """What each operator of the program gives, as fake tensors, found by running each."""
    values: dict[Node, Any] = {}
    known: dict[Any, Any] = {}
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    modes = {node.meta["val"].fake_mode for node in inputs if type(node.meta.get("val")) is FakeTensor}
    if len(modes) != 1:
        raise _Unsuited
    (mode,) = modes
    with mode:
        for node in program.graph.nodes:
            if node.op == "placeholder":
                values[node] = node.meta["val"]
                _layout(values[node])
            elif node.op == "call_function" and node.target is operator.getitem:
                values[node] = values[node.args[0]][node.args[1]]
            elif node.op == "call_function":
                key = _key(node, values), tuple(values[tensor].storage_offset() for tensor in _tensors(node))
                if key not in known:
                    args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), lambda tensor: values[tensor])
                    known[key] = node.target(*_plain(args), **_plain(kwargs))
                    for result in _results(known[key]):
                        _layout(result)
                values[node] = known[key]
            elif node.op != "output":
                raise _Unsuited
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(_plain(item) for item in value)
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _results(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _small(program: ExportedProgram, calls: dict[tuple, Node], values: dict[Node, Any]) -> tuple[ExportedProgram, int]:
    """A program with the inputs of `program` that makes `calls` on tensors of its own; it gives first those tensors, then all results.

    The number of tensors is given, too.
    """
    graph = Graph()
    for node in program.graph.nodes:
        if node.op == "placeholder":
            graph.node_copy(node)
    tensors: list[Node] = []
    outputs: list[Node] = []
    pending = []
    for call in calls.values():
        own: dict[Node, Node] = {}
        for tensor in dict.fromkeys(_tensors(call)):
            size, stride, dtype, device, _ = _layout(values[tensor])
            own[tensor] = graph.call_function(
                torch.ops.aten.empty_strided.default, ([*size], [*stride]), {"dtype": dtype, "device": device}
            )
            own[tensor].meta["val"] = values[tensor]
        tensors.extend(own.values())
        pending.append((call, own))
    for call, own in pending:
        made = graph.node_copy(call, own.__getitem__)
        made.meta["val"] = values[call]
        if isinstance(values[call], (list, tuple)):
            for i, value in enumerate(values[call]):
                outputs.append(graph.call_function(operator.getitem, (made, i)))
                outputs[-1].meta["val"] = value
        else:
            outputs.append(made)
    graph.output((*tensors, *outputs))
    specs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in (*tensors, *outputs)]
    whole = program.module_call_graph[0]
    if whole.signature is None:
        raise _Unsuited
    structure = pytree.tree_structure(tuple(range(len(specs))))
    signature = ModuleCallSignature(
        inputs=[],  # names, which nobody asks for here
        outputs=[],
        in_spec=whole.signature.in_spec,
        out_spec=structure,
        forward_arg_names=whole.signature.forward_arg_names,
    )
    small = ExportedProgram(
        root=program.graph_module,
        graph=graph,
        graph_signature=ExportGraphSignature(list(program.graph_signature.input_specs), specs),
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=[ModuleCallEntry(fqn=whole.fqn, signature=signature)],
        example_inputs=program.example_inputs,
        constants=program.constants,
    )
    return small, len(tensors)


def _kinds(small: ExportedProgram, tensors: int, calls: dict[tuple, Node], values: dict[Node, Any]) -> dict[tuple, _Kind]:
    """What became of each call of the small program."""
    ends = list(small.graph.output_node().args[0])
    given, results = iter(ends[:tensors]), iter(ends[tensors:])
    order = {node: i for i, node in enumerate(small.graph.nodes)}
    sources, used = set(ends[:tensors]), set()
    kinds = {}
    for key, call in calls.items():
        own = {next(given): i for i, _ in enumerate(dict.fromkeys(_tensors(call)))}
        found = tuple(next(results) for _ in _results(values[call]))
        nodes, waiting = set(), list(found)
        while waiting:
            node = waiting.pop()
            if node in own or node in nodes:
                continue
            if node in sources or node in used or node.op != "call_function":
                raise _Unsuited
            nodes.add(node)
            waiting.extend(node.all_input_nodes)
        used |= nodes
        kinds[key] = _Kind(tuple(sorted(nodes, key=order.__getitem__)), own, found)
        if key[0].namespace == WITHOUT_DECOMPOSITION and not _untouched(kinds[key], call):
            raise _Unsuited
    return kinds


def _untouched(kind: _Kind, call: Node) -> bool:
    (node, *others) = kind.nodes
    plain = [pytree.tree_flatten((one.args, dict(one.kwargs))) for one in (node, call)]
    leaves = [[leaf for leaf in flat if not isinstance(leaf, Node)] for flat, _ in plain]
    return not others and node.target is call.target and kind.results == (node,) and leaves[0] == leaves[1] and plain[0][1] == plain[1][1]


def _check_results(program: ExportedProgram) -> None:
    """Refuse a program that gives back an input, a part of one, or a constant: what becomes of these depends on the whole."""
    for result in pytree.tree_leaves(program.graph.output_node().args[0]):
        while (
            isinstance(result, Node)
            and result.op == "call_function"
            and (result.target is operator.getitem or any(one.alias_info is not None for one in result.target._schema.returns))
        ):
            result = result.args[0]
        if not isinstance(result, Node) or result.op != "call_function":
            raise _Unsuited


def _notes(node: Node) -> dict[str, Any]:
    """What is noted beside all that a node becomes."""
    kept = {field: node.meta[field] for field in ("stack_trace", *_COPY_META_FIELDS) if field in node.meta}
    return kept | {"from_node": [NodeSource(node, "decomposed", NodeSourceAction.CREATE)]}


def _placeholders(program: ExportedProgram, small: ExportedProgram, graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Each input of the program with its copy in `graph`, which has them in the order of the small program."""
    names = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    if not all(spec.kind in INPUTS and isinstance(spec.arg, TensorArgument) for spec in specs):
        raise _Unsuited
    users = iter([names[spec.arg.name] for spec in specs if spec.kind == InputKind.USER_INPUT])
    others = {spec.target: names[spec.arg.name] for spec in specs if spec.kind != InputKind.USER_INPUT}
    nodes = {node.name: node for node in small.graph.nodes if node.op == "placeholder"}
    if len(others) + len(program.graph_signature.user_inputs) != len(names) or len(nodes) != len(names):
        raise _Unsuited
    for spec in small.graph_signature.input_specs:
        yield (next(users) if spec.kind == InputKind.USER_INPUT else others[spec.target]), graph.node_copy(nodes[spec.arg.name])


def _written(program: ExportedProgram, small: ExportedProgram, kinds: dict[tuple, _Kind], values: dict[Node, Any]) -> Graph:
    """The graph of the program with what became of each call in its place."""
    graph = Graph()
    now: dict[Node, Any] = dict(_placeholders(program, small, graph))
    for node in program.graph.nodes:
        if node.op == "output":
            graph.output(torch.fx.map_arg(node.args[0], now.__getitem__)).meta.update(node.meta)
        elif node.op == "call_function" and node.target is operator.getitem:
            now[node] = now[node.args[0]][node.args[1]]
        elif node.op == "call_function":
            kind = kinds[_key(node, values)]
            taken = [now[tensor] for tensor in dict.fromkeys(_tensors(node))]
            made = {tensor: taken[i] for tensor, i in kind.tensors.items()}
            notes = _notes(node)
            for one in kind.nodes:
                if one.target is not operator.getitem and one.target.namespace == WITHOUT_DECOMPOSITION:
                    args, kwargs = torch.fx.map_arg((node.args, dict(node.kwargs)), now.__getitem__)
                else:
                    args, kwargs = torch.fx.map_arg((one.args, dict(one.kwargs)), made.__getitem__)
                name = getattr(getattr(one.target, "overloadpacket", one.target), "__name__", None)
                made[one] = graph.create_node("call_function", one.target, args, kwargs, name)
                made[one].meta.update(notes)
                made[one].meta["val"] = one.meta["val"]
                if isinstance(one.meta["val"], torch.Tensor):
                    made[one].meta["tensor_meta"] = _extract_tensor_metadata(one.meta["val"])
            if [_layout(one.meta["val"]) for one in kind.results] != [_layout(value) for value in _results(values[node])]:
                raise _Unsuited
            results = [made[one] for one in kind.results]
            now[node] = results if isinstance(values[node], (list, tuple)) else results[0]
    graph.eliminate_dead_code()
    graph.lint()
    return graph


def decomposed(program: ExportedProgram, run: Callable[[ExportedProgram], ExportedProgram]) -> ExportedProgram:
    """What `run` makes of a program that no operator of writes to its inputs; `run` decomposes a program."""
    try:
        values = _values(program)
        _check_results(program)
        calls: dict[tuple, Node] = {}
        for node in program.graph.nodes:
            if node.op == "call_function" and node.target is not operator.getitem:
                calls.setdefault(_key(node, values), node)
        small, tensors = _small(program, calls, values)
        small = run(small)
        graph = _written(program, small, _kinds(small, tensors, calls, values), values)
    except _Unsuited:
        return run(program)
    names = [node.name for node in pytree.tree_leaves(graph.output_node().args[0])]
    outputs = zip(program.graph_signature.output_specs, names, strict=True)
    signature = ExportGraphSignature(
        small.graph_signature.input_specs, [OutputSpec(spec.kind, TensorArgument(name), spec.target) for spec, name in outputs]
    )
    module = GraphModule(small.graph_module, graph)
    module.meta.update(program.graph_module.meta)
    return ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=signature,
        state_dict=small.state_dict,
        range_constraints=small.range_constraints,
        module_call_graph=_get_updated_module_call_graph(
            program.graph_module, program.graph_signature, module, signature, program.module_call_graph
        ),
        example_inputs=program.example_inputs,
        constants=small.constants,
    )
