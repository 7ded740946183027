"""A network whose operators can each be quantized, by one scheme or another, or left in floats, at no cost for changing one's mind.

Calibration observes the float network, so what it finds for a tensor does not depend on how others are stored: every scheme is
observed once, and a mixture only chooses at which ends of which tensors the observed rounding is applied. With all operators of one scheme
the network computes what its quantized program computes (tests/unit/test_mixing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_arg
from torchao.quantization.pt2e import ObserverBase

from earshot.errors import ConfigError
from earshot.parts import part_of
from earshot.quantize.module_paths import MOVES, kind, module_of
from earshot.quantize.tracing import quiet

FLOAT = "float"
WHOLE = "model"  # the part of operators that are in no module
Input = tuple[str, int]  # name of an operator, and which of its tensors


@dataclass(frozen=True)
class Operator:
    """What computes something: the part of the model it is in (see earshot.parts), and its kind (conv2d, matmul, ...)."""

    name: str
    part: str
    kind: str


@dataclass(frozen=True)
class Rounding:
    """To the integers of a scale and back; per channel of `axis`, or of the whole tensor."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    low: int
    high: int
    axis: int | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.axis is None:  # as torch.fake_quantize_per_tensor_affine, which takes several times as long
            scale, zero = self.scale[0], self.zero_point[0]
            return (x * (1 / scale)).round_().clamp_(self.low - zero, self.high - zero).mul_(scale)
        shape = [-1 if i == self.axis else 1 for i in range(x.dim())]
        scales, zeros = torch.tensor(self.scale).view(shape), torch.tensor(self.zero_point).view(shape)
        return (x * (1 / scales)).round_().clamp_(self.low - zeros, self.high - zeros).mul_(scales)


class Edge(nn.Module):
    """A tensor on its way into an operator. What is constant is rounded once.

    Args:
        constants: what a constant is for the operator in floats, and with each scheme; empty where the tensor is none.
    """

    def __init__(self, constants: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.constants = constants
        self.value = constants.get(FLOAT)
        self.roundings: tuple[Rounding, ...] = ()
        self.scheme = FLOAT

    def set(self, roundings: tuple[Rounding, ...], scheme: str = FLOAT) -> None:
        """`scheme` is that of the operator that takes the tensor."""
        if (roundings, scheme) != (self.roundings, self.scheme):
            self.roundings, self.scheme = roundings, scheme
            self.value = self._rounded(self.constants[scheme]) if self.constants else None

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        for rounding in self.roundings:
            x = rounding(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._rounded(x) if self.value is None else self.value


class MixedNetwork:
    """A network of a window, features [1, frames, n_mels] to logits [1, T', V], whose operators take the precisions that `mix` gives them.

    Args:
        prepared: the observed network of each scheme, all of one exported program but for their weights; they are used up.
        floats: weights by name of operators in floats; those that it lacks are the same with all schemes.

    Raises:
        ConfigError: the schemes change the network in different ways.
    """

    def __init__(self, prepared: Mapping[str, fx.GraphModule], floats: Mapping[str, torch.Tensor]) -> None:
        found = {scheme: dict(_inputs(graph_module)) for scheme, graph_module in prepared.items()}
        first, *others = prepared
        for other in others:
            if found[other].keys() != found[first].keys():
                raise ConfigError(f"{first} and {other}: their networks differ in their operators, and cannot be mixed in one search")
        self._module = prepared[first]
        modules = _modules(self._module.graph)
        computing = [node for node in self._module.graph.nodes if node.op == "call_function" and kind(node) not in MOVES]
        self.operators = [Operator(node.name, part_of(modules[node.name]), kind(node)) for node in computing]
        self._made_by: dict[Input, str] = {}
        self._roundings: dict[Input, dict[str, tuple[Rounding, ...]]] = {}
        self._edges: dict[Input, Edge] = {}
        self._weights: dict[str, int] = {}
        self._rewire(found, prepared, floats)

    def _rewire(
        self,
        found: Mapping[str, Mapping[Input, tuple[str, tuple[Rounding, ...]]]],
        prepared: Mapping[str, fx.GraphModule],
        floats: Mapping[str, torch.Tensor],
    ) -> None:
        """Put an edge where any scheme rounds, in place of the observers."""
        graph = self._module.graph
        for node in list(graph.nodes):
            if node.op not in ("call_function", "output"):
                continue
            count = 0

            def through_edge(given: fx.Node, node: fx.Node = node) -> fx.Node:
                nonlocal count
                at, count = (node.name, count), count + 1
                source, _ = _source(self._module, given)
                roundings = {scheme: of_scheme[at][1] for scheme, of_scheme in found.items()}
                if not any(roundings.values()):
                    return source
                constants: dict[str, torch.Tensor] = {}
                if source.op == "get_attr":
                    constants = {scheme: _attribute(module, source.target).detach() for scheme, module in prepared.items()}
                    constants[FLOAT] = floats.get(source.target, next(iter(constants.values())))
                    if constants[FLOAT].dim() > 1:
                        self._weights[node.name] = self._weights.get(node.name, 0) + constants[FLOAT].numel()
                self._made_by[at], self._roundings[at], self._edges[at] = source.name, roundings, Edge(constants)
                name = f"edge_{len(self._edges)}"
                self._module.add_module(name, self._edges[at])
                with graph.inserting_before(node):
                    return graph.call_module(name, (source,))

            node.args, node.kwargs = map_arg(node.args, through_edge), map_arg(node.kwargs, through_edge)
        graph.eliminate_dead_code()
        self._module.delete_all_unused_submodules()
        self._module.recompile()

    @property
    def schemes(self) -> list[str]:
        return list(next(iter(self._roundings.values())))

    def weights(self) -> dict[str, int]:
        """Numbers of quantized weights by part."""
        counts: dict[str, int] = {}
        for one in self.operators:
            counts[one.part] = counts.get(one.part, 0) + self._weights.get(one.name, 0)
        return counts

    def mix(self, precision: Callable[[Operator], str]) -> None:
        """Give each operator a scheme, or FLOAT. Between two, a tensor is rounded by that of its maker, then by that of its user."""
        chosen = {one.name: precision(one) for one in self.operators}
        for at, edge in self._edges.items():
            ends = (chosen.get(self._made_by[at], FLOAT), chosen.get(at[0], FLOAT))
            rounded = [rounding for scheme in ends if scheme != FLOAT for rounding in self._roundings[at][scheme]]
            edge.set(tuple(dict.fromkeys(rounded)), ends[1])

    @torch.no_grad()
    def __call__(self, x_btf: torch.Tensor) -> torch.Tensor:
        logits = self._module(x_btf)
        return logits if isinstance(logits, torch.Tensor) else logits[0]


def _inputs(graph_module: fx.GraphModule) -> Iterator[tuple[Input, tuple[str, tuple[Rounding, ...]]]]:
    """Of each tensor that an operator takes: where it is from, and how it is rounded on the way."""
    for node in graph_module.graph.nodes:
        if node.op in ("call_function", "output"):
            given: list[fx.Node] = []
            map_arg((node.args, node.kwargs), given.append)
            for i, one in enumerate(given):
                source, observers = _source(graph_module, one)
                yield (node.name, i), (source.name, tuple(map(_rounding, observers)))


def _source(graph_module: fx.GraphModule, node: fx.Node) -> tuple[fx.Node, list[ObserverBase]]:
    """What is observed, and its observers, the first one first."""
    observers: list[ObserverBase] = []
    while node.op == "call_module":
        observers.insert(0, graph_module.get_submodule(node.target))
        node = node.args[0]
    return node, observers


def _rounding(observer: ObserverBase) -> Rounding:
    """What an observer found; a bias has as many scales as its layer has channels, and no axis of its own."""
    with quiet():
        scale, zero_point = observer.calculate_qparams()
    axis = getattr(observer, "ch_axis", 0) if scale.numel() > 1 else None
    return Rounding(
        tuple(scale.flatten().tolist()), tuple(zero_point.flatten().int().tolist()), observer.quant_min, observer.quant_max, axis
    )


def _attribute(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _modules(graph: fx.Graph) -> dict[str, str]:
    """The module of each operator. A quantizer that rewrites an operator loses it: then that of what uses the result, or makes an input."""
    nodes = list(graph.nodes)
    found = {node.name: module_of(node) for node in nodes if node.op == "call_function"}
    for order, neighbours in ((reversed(nodes), lambda node: node.users), (nodes, lambda node: node.all_input_nodes)):
        for node in order:
            if not found.get(node.name):
                known = (found.get(other.name) for other in neighbours(node))
                found[node.name] = next((module for module in known if module), "")
    return {name: module or WHOLE for name, module in found.items()}
