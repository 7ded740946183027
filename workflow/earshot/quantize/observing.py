"""Finding ranges: the float network of a program, with the observers of a scheme, run over windows of calibration speech."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn import Module
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from torchao.quantization.pt2e.quantizer import Quantizer

from earshot.quantize.module_paths import MOVES, kind
from earshot.quantize.tracing import lean_tracing, quiet


def observed(exported: ExportedProgram, quantizer: Quantizer, inputs: Iterable[tuple[torch.Tensor, ...]]) -> GraphModule:
    """The float network of a program with the observers of a scheme, which have seen `inputs` of windows."""
    with quiet(), lean_tracing():
        prepared = prepare_pt2e(exported.module(check_guards=False), quantizer)
    prepared.recompile()
    network = _without(prepared, set(_repetitions(prepared)))
    with torch.no_grad():
        for number, of_window in enumerate(inputs):
            network(*of_window)
            if number == 0:  # weights do not change: the first window has shown all of them
                network = _without(network, set(_of_weights(network)))
    return prepared


def _repetitions(prepared: GraphModule) -> Iterator[str]:
    """Calls of observers for values that they have been given before, of another shape or as a part of more: about half of all."""
    shown = defaultdict[Module, set[Node]](set)
    for node in prepared.graph.nodes:
        if node.op == "call_module":
            seen, (given,) = shown[prepared.get_submodule(node.target)], node.all_input_nodes
            if _within(seen, given):
                yield node.name
            seen.update((given, node))


def _within(seen: set[Node], node: Node) -> bool:
    """Whether all values of a result are among those of other ones."""
    moves = node.op == "call_module" or (node.op == "call_function" and kind(node) in MOVES)
    return node in seen or (moves and all(_within(seen, one) for one in node.all_input_nodes))


def _of_weights(network: GraphModule) -> Iterator[str]:
    """Calls of the observers that see nothing but weights."""
    weights = set(network.graph.find_nodes(op="get_attr"))
    calls = [(node.name, network.get_submodule(node.target), _within(weights, node)) for node in network.graph.find_nodes(op="call_module")]
    changing = {observer for _, observer, constant in calls if not constant}
    yield from (name for name, observer, _ in calls if observer not in changing)


def _without(network: GraphModule, calls: Collection[str]) -> GraphModule:
    """The same network, of the same modules, but for these calls of observers."""
    graph = copy.deepcopy(network.graph)
    for node in list(graph.nodes):
        if node.name in calls:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return GraphModule(network, graph)
