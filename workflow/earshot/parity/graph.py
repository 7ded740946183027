"""A saved program, run operator by operator: as it is, or in floats, that is with nothing quantized; its tensors can be looked at.

The float run takes the quantize nodes out and puts the trained weights back in. So both runs are of one graph, and each tensor of the one
has its counterpart in the other: no two graphs have to be matched. Its logits must be those of the trained model, which is the rung
`exported` of the ladder: it proves the export, the rewrites of the quantizer, and this run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node
from torch.fx.node import map_arg

from earshot.errors import ArtifactError
from earshot.quantize import module_paths
from earshot.quantize.module_paths import kind

MOST_APART = 1e-3  # part of a weight that may be further than a step from the trained one
LOST = ("GraphModule", "Wrapper")  # classes that torch.export puts a rewritten graph in: they say nothing of the model
MODEL = "model"  # what the outermost module itself does, between its parts


def is_quantize(node: Node) -> bool:
    return node.op == "call_function" and kind(node).startswith("quantize_per_")


def is_dequantize(node: Node) -> bool:
    return node.op == "call_function" and kind(node).startswith("dequantize_per_")


@dataclass(frozen=True)
class Point:
    """A tensor that the program stores in integers."""

    quantize: Node  # gives the integers
    value: Node  # gives what they stand for
    operator: str  # kind of the operator that the tensor is the result of
    path: str  # of the module that it is in, see earshot.lower.module_names
    scale: float | None  # None where it is found anew in each run
    zero_point: int | None


class Graph:
    """A program of one graph without control flow."""

    def __init__(self, exported: ExportedProgram, trained: Iterable[torch.Tensor] = ()) -> None:
        """`trained` are numbers that stored ones may have been before, besides those that the program still has.

        Raises:
            ArtifactError: an operator is none of PyTorch's or of quantization.
        """
        self.nodes = [node for node in exported.graph.nodes if node.op != "placeholder"]
        if strange := [node.name for node in self.nodes if node.op not in ("call_function", "output")]:
            raise ArtifactError(f"program: node {strange[0]} is no operator; the parity ladder takes programs of one graph only")
        self._inputs, self._constants = [], {}
        placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
        for spec in exported.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind == InputKind.USER_INPUT:
                self._inputs.append(node)
            else:
                held = exported.state_dict if spec.target in exported.state_dict else exported.constants
                self._constants[node] = held[spec.target].detach()
        self.paths = _paths(self.nodes)
        self.points = self._points()
        self._floats, self.replaced, self.stored = self._in_floats(trained)
        self._last = _last_uses(self.nodes)

    def _points(self) -> list[Point]:
        """The activations that are stored in integers, in the order of execution."""
        found = []
        for node in self.nodes:
            users = [user for user in node.users if is_dequantize(user)]
            if not is_quantize(node) or not users or node.args[0] in self._constants:
                continue
            made = node.args[0]
            while is_dequantize(made):  # the same tensor once more, in other integers
                made = made.args[0].args[0] if isinstance(made.args[0], Node) and is_quantize(made.args[0]) else made.args[0]
            scale, zero_point = (None if isinstance(value, Node) else value for value in node.args[1:3])
            operator = "input" if made.op == "placeholder" else kind(made)
            path = self.paths.get(made) or self.paths.get(node) or MODEL
            found.append(Point(node, users[0], operator, path, scale, zero_point))
        return found

    def _in_floats(self, trained: Iterable[torch.Tensor]) -> tuple[dict[Node, torch.Tensor], int, int]:
        """The constants of the float run, and how many of the quantized ones are the trained ones again, of how many.

        A stored weight has no name. The trained one is that of its shape which is nearest to it, of `trained` and of those that the program
        has but does not read.
        """
        floats, replaced, stored = dict(self._constants), 0, 0
        by_shape: dict[tuple[int, ...], list[torch.Tensor]] = {}
        left = (one for node, one in self._constants.items() if not node.users and one.is_floating_point())
        for one in (*left, *trained):
            by_shape.setdefault(_size(one), []).append(one)
        for node in self.nodes:
            if not is_dequantize(node) or node.args[0] not in self._constants:
                continue
            integers, *others = map_arg(node.args, self._constant)
            held = node.target(integers, *others, **node.kwargs)
            nearest = min(by_shape.get(_size(held), []), key=lambda one: float((held - one).norm()), default=None)
            stored += 1
            if nearest is not None and _rounded(held, nearest, others[0]):
                replaced, held = replaced + 1, nearest.reshape(held.shape)
            floats[node.args[0]] = held
        return floats, replaced, stored

    def _constant(self, node: Node) -> Any:
        """What an operator gives that no input reaches: the scale of a constant may be computed anew in each run, too."""
        return self._constants[node] if node in self._constants else node.target(*map_arg(node.args, self._constant), **node.kwargs)

    def following(self, quantize: Node) -> list[Node]:
        """The quantize nodes of the activations that are made of one directly, whatever operators lie between."""
        found, waiting = dict[Node, None](), list(quantize.users)
        while waiting:
            node = waiting.pop()
            if is_quantize(node):
                found[node] = None
            else:
                waiting += node.users
        return list(found)

    def run(
        self,
        *inputs: torch.Tensor,
        in_floats: bool = False,
        keep: Sequence[Node] = (),
        change: Callable[[Node, torch.Tensor], torch.Tensor] | None = None,
    ) -> tuple[list[torch.Tensor], dict[Node, torch.Tensor]]:
        """The outputs, and the results of the nodes `keep`.

        Args:
            inputs: as the program takes them, with the batch of one.
            in_floats: nothing is quantized.
            change: is given each quantize node with its result, and gives what is to be taken for it.
        """
        values: dict[Node, Any] = dict(self._floats if in_floats else self._constants)
        values |= dict(zip(self._inputs, inputs, strict=True))
        wanted, kept = set(keep), dict[Node, torch.Tensor]()
        with torch.inference_mode():
            for node in self.nodes:
                args = map_arg(node.args, values.__getitem__)
                if node.op == "output":
                    return list(args[0]), kept
                if in_floats and (is_quantize(node) or is_dequantize(node)):
                    result = args[0]
                else:
                    result = node.target(*args, **map_arg(node.kwargs, values.__getitem__))
                if change is not None and is_quantize(node):
                    result = change(node, result)
                values[node] = result
                if node in wanted:
                    kept[node] = result
                for one in self._last[node]:
                    del values[one]
        raise ArtifactError("program: has no output")


def _size(weight: torch.Tensor) -> tuple[int, ...]:
    """By which stored and trained weights are paired: a scalar may have any number of axes."""
    return tuple(weight.shape) if weight.numel() > 1 else ()


def _rounded(stored: torch.Tensor, trained: torch.Tensor, scale: torch.Tensor | float) -> bool:
    """Whether a stored weight is the trained one in few bits: up to a step apart, but for one in a thousand, which was cut off."""
    steps = torch.as_tensor(scale)
    steps = steps.reshape(-1, *[1] * (stored.dim() - 1)) if stored.dim() and steps.numel() == stored.shape[0] else steps.max()
    return float(((stored - trained).abs() > 1.01 * steps).float().mean()) <= MOST_APART


def _last_uses(nodes: Sequence[Node]) -> dict[Node, list[Node]]:
    """The results that no later node reads, by the node that is the last to read them."""
    last: dict[Node, Node] = {}
    for node in nodes:
        for one in (node, *node.all_input_nodes):
            if one.op != "placeholder":
                last[one] = node
    free: dict[Node, list[Node]] = {node: [] for node in nodes}
    for one, node in last.items():
        free[node].append(one)
    return free


def _paths(nodes: Sequence[Node]) -> dict[Node, str]:
    """The module of each node; where the quantizer's rewriting lost it, that of what uses the result."""
    found: dict[Node, str] = {}
    for node in reversed(nodes):
        kinds = [str(kind) for _, kind in node.meta.get("nn_module_stack", {}).values()]
        if not kinds or kinds[-1].endswith(LOST):
            found[node] = next((found[user] for user in node.users), MODEL)
        else:
            found[node] = module_paths.name("".join(module_paths.paths(node)[-1:])) or MODEL
    return found
