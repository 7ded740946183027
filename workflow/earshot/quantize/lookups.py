"""Look-ups whose time grows with the square of a program's length, made to grow with its length."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

from torch.export import graph_signature
from torch.export.graph_signature import ExportGraphSignature
from torch.fx import GraphModule, Node
from torch.fx.passes.infra import partitioner
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner, Partition

from earshot.quantize.replacing import replaced

# What a signature is made of, and what is read from its lists of specs, by the list.
_PARTS = (graph_signature.InputSpec, graph_signature.OutputSpec, graph_signature.TensorArgument)
_DICTIONARIES = {
    "inputs_to_parameters": "input_specs",
    "inputs_to_buffers": "input_specs",
    "inputs_to_lifted_tensor_constants": "input_specs",
    "non_persistent_buffers": "input_specs",
    "user_inputs": "input_specs",
    "buffers_to_mutate": "output_specs",
}


@contextlib.contextmanager
def indexed_signatures() -> Iterator[None]:
    """Sort the specs of a signature once until it changes, not at each look-up: passes ask for each node whether it is a weight.

    A change is seen by the list of specs, and by every assignment to an attribute of a spec or an argument.
    """
    changes = 0

    def noted(self: Any, name: str, value: Any) -> None:
        nonlocal changes
        changes += 1
        object.__setattr__(self, name, value)

    def remembered(name: str, build: Callable[[ExportGraphSignature], Any]) -> property:
        specs_name = _DICTIONARIES[name]
        last: tuple[ExportGraphSignature, int, list, Any] | None = None

        def look_up(self: ExportGraphSignature) -> Any:
            nonlocal last
            specs = getattr(self, specs_name)
            if last is None or last[0] is not self or last[1] != changes or last[2] != specs:  # compares identities before contents
                last = self, changes, list(specs), build(self)
            return last[3]

        return property(look_up)

    with contextlib.ExitStack() as stack:
        for name in _DICTIONARIES:
            build = vars(ExportGraphSignature)[name].fget
            stack.enter_context(replaced(ExportGraphSignature, name, remembered(name, build)))
        for part in _PARTS:
            stack.enter_context(replaced(part, "__setattr__", noted))
        yield


class _Dependencies:
    """All that depends on a node, found out when it is first asked for."""

    def __init__(self, graph_module: GraphModule, view: type[partitioner._DependencyViewer]) -> None:
        self._graph_module, self._view = graph_module, view

    @functools.cached_property
    def _viewed(self) -> partitioner._DependencyViewer:
        return self._view(self._graph_module)

    def downstreams_of(self, node: Node) -> set[Node]:
        return self._viewed.downstreams_of(node)


@contextlib.contextmanager
def whole_partitions() -> Iterator[None]:
    """Take a graph whose every operator is supported as one partition, without looking for cycles through what is not."""
    propose, view = CapabilityBasedPartitioner.propose_partitions, partitioner._DependencyViewer

    def proposed(self: Any) -> list[Partition]:
        supported = {node: self._is_node_supported(node) for node in reversed(self.graph_module.graph.nodes)}
        orders = {node: order for order, node in enumerate(supported) if supported[node]}
        calls = [node for node in supported if node.op == "call_function"]
        tuples = [node.args[0] for node in calls if node.target is operator.getitem]
        if len(orders) > 1 and self.allows_single_node_partition and list(orders) == calls and all(made in orders for made in tuples):
            # Partition 1 is what the algorithm ends with: the first two nodes merge into the second, and all others into these.
            return [Partition(id=1, nodes=list(reversed(orders)), node_orders=list(reversed(orders.values())))]
        self._is_node_supported = supported.__getitem__  # asked once: a refusal is reported at each question
        return propose(self)

    def viewer(graph_module: GraphModule) -> _Dependencies:
        return _Dependencies(graph_module, view)

    with replaced(CapabilityBasedPartitioner, "propose_partitions", proposed), replaced(partitioner, "_DependencyViewer", viewer):
        yield
