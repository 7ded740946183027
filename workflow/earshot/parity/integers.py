"""The tensors of an integer graph beside those of the program that it was lowered from.

Nothing says which tensor of the one is which of the other: the compiler fuses, moves and transposes. But the integers do. The program is
run with, at every quantize node, the integers of the graph put in the place of its own. So each operator gets what the one in the graph
gets, and gives the same but for how this one operator is computed: its counterpart is the graph's tensor of the same type and size, in any
order of its axes, that is nearest to it. What then still differs is how far this operator departs by itself, whatever was lost before it.
The counterpart has the scale and the zero point of the program's tensor: both are known, none is fitted.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from earshot.lower import tosa_operators
from earshot.lower.tosa import IntegerGraph
from earshot.parity.figures import decibels
from earshot.parity.graph import Graph

LEAST_DB, LEAST_COSINE = 10.0, 0.95  # of a tensor with its counterpart, about the mean; with others of the same size it is about 0
CANDIDATES = 8  # tensors that are compared value by value: those with the nearest mean and deviation
STORED = {"INT4": torch.int8, "INT8": torch.int8, "INT16": torch.int16}


@dataclass(frozen=True)
class Counterpart:
    """A tensor of the integer graph, and the order of its axes (those of one element left out) in the program."""

    tensor: str
    axes: tuple[int, ...]
    alike: bool = False  # it goes up and down with the program's tensor, but is not near it

    def read(self, tensors: Mapping[str, np.ndarray], like: torch.Tensor) -> torch.Tensor:
        """The integers of the graph in the shape and type of the program's."""
        squeezed = torch.from_numpy(tensors[self.tensor]).squeeze()
        return squeezed.permute(self.axes).reshape(like.shape).to(like.dtype)


class Departure:
    """What an operator of the integer graph gives that the program's does not, of the same integers."""

    def __init__(self) -> None:
        self._signal = self._error = 0.0
        self._values = self._differing = self.most_steps = 0

    def add(self, wanted: torch.Tensor, found: torch.Tensor, zero_point: int) -> None:
        """Integers of the program and of the graph."""
        x, difference = wanted.double() - zero_point, (wanted.double() - found.double()).abs()
        self._signal += float(x.square().sum())
        self._error += float(difference.square().sum())
        self._values += difference.numel()
        self._differing += int(difference.count_nonzero())
        self.most_steps = max(self.most_steps, int(difference.max()))

    @property
    def sqnr_db(self) -> float:
        return decibels(self._signal, self._error)

    @property
    def differing(self) -> float:
        """The part of the values that is not the same."""
        return self._differing / self._values if self._values else 0.0


class Counterparts:
    """The tensors of a graph that are those of a program: found in the first window, kept for the others."""

    def __init__(self, graph: IntegerGraph, program: Graph) -> None:
        declared = tosa_operators.read_graph(graph.path.read_bytes(), graph.path)
        computed = [name for one in declared.operators if not one.is_constant for name in one.outputs]
        self._names = [name for name in computed if declared.tensors[name].dtype in STORED]
        self._graph, self._program = graph, program
        self.points = {point.quantize: point for point in program.points}
        self.found: dict[Node, Counterpart | None] | None = None
        self.departures = {point.quantize: Departure() for point in program.points}

    def follow(self, inputs: Sequence[torch.Tensor]) -> dict[Node, torch.Tensor]:
        """Compare a window's integers; gives what the graph's stand for, by quantize node, where there is a counterpart."""
        integers = self._graph.quantize(*(one[0] for one in inputs))
        tensors = self._graph.intermediates(*integers, names=self._names)
        if self.found is None:
            self.found = self._find(inputs, tensors)
        values, counterparts = {}, self.found

        def change(node: Node, own: torch.Tensor) -> torch.Tensor:
            point, counterpart = self.points[node], counterparts.get(node)
            if counterpart is None or point.scale is None or point.zero_point is None:
                return own
            graphs = counterpart.read(tensors, own)
            self.departures[node].add(own, graphs, point.zero_point)
            values[node] = (graphs.float() - point.zero_point) * point.scale
            return graphs

        self._program.run(*inputs, change=change)
        return values

    def _find(self, inputs: Sequence[torch.Tensor], tensors: Mapping[str, np.ndarray]) -> dict[Node, Counterpart | None]:
        """The counterparts, by what the program and the graph make of one window.

        One that only goes up and down with the program's tensor may be the same tensor in another scale, or what an operator made wrong of
        it. What follows decides: of a tensor in another scale, the program's next operator makes what is nowhere in the graph.
        """
        pool, refused = _Pool(tensors, self._names), set()
        while True:
            found: dict[Node, Counterpart | None] = {}

            def change(node: Node, own: torch.Tensor, found: dict[Node, Counterpart | None] = found) -> torch.Tensor:
                point = self.points.get(node)
                if point is None or point.scale is None:
                    return own
                counterpart = found[node] = pool.counterpart(own, alike=node not in refused)
                return own if counterpart is None else counterpart.read(tensors, own)

            self._program.run(*inputs, change=change)
            doubtful = [node for node, one in found.items() if one and one.alike]
            sure = {node for node, one in found.items() if one and not one.alike}
            wrong = [node for node in doubtful if sure.isdisjoint(self._program.following(node))]
            if not wrong:
                return found
            refused.add(wrong[0])


class _Pool:
    """The tensors of a graph, by what can be said of them before their axes are put in order."""

    def __init__(self, tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
        self._groups: dict[tuple, list[tuple[str, torch.Tensor, float, float]]] = {}
        for name in names:
            one = torch.from_numpy(tensors[name]).squeeze()
            floats = one.float()
            entry = (name, one, float(floats.mean()), float(floats.std(correction=0)))
            self._groups.setdefault((one.dtype, *sorted(one.shape)), []).append(entry)

    def counterpart(self, own: torch.Tensor, alike: bool) -> Counterpart | None:
        """The tensor and order of axes with the least squared difference; where none is near, if `alike`, the one that goes up and down
        with it; else None.
        """
        wanted = own.squeeze()
        floats = wanted.float()
        mean, deviation = float(floats.mean()), float(floats.std(correction=0))
        group = self._groups.get((wanted.dtype, *sorted(wanted.shape)))
        if group is None:
            return None
        near = sorted(group, key=lambda entry: abs(entry[2] - mean) + abs(entry[3] - deviation))[:CANDIDATES]
        error, _, found = min(_turned(wanted, floats, near), key=lambda one: one[0])
        if decibels(max(deviation**2, 1.0), error) >= LEAST_DB:
            return found
        _, cosine, found = max(_turned(wanted, floats, group if alike else near), key=lambda one: one[1])
        return dataclasses.replace(found, alike=True) if alike and cosine >= LEAST_COSINE else None


def _turned(wanted: torch.Tensor, floats: torch.Tensor, entries: Sequence[tuple]) -> Iterator[tuple[float, float, Counterpart]]:
    """Mean squared difference, cosine about the means, and name, of each tensor with its axes in each order that fits."""
    centred = (floats - floats.mean()).flatten()
    for name, tensor, mean, deviation in entries:
        for axes in itertools.permutations(range(tensor.dim())):
            if (turned := tensor.permute(axes)).shape != wanted.shape:
                continue
            turned = turned.float()
            product = float(centred @ (turned.flatten() - mean))
            norms = float(centred.norm()) * deviation * math.sqrt(floats.numel())
            yield float((turned - floats).square().mean()), product / norms if norms else 0.0, Counterpart(name, axes)
