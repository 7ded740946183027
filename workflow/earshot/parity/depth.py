"""Where along the depth of a network precision is lost: each stored tensor in floats, in the quantized program, in the integer graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from earshot.lower.module_names import Origin
from earshot.lower.tosa import IntegerGraph
from earshot.parity.figures import Comparison
from earshot.parity.graph import Graph, Point
from earshot.parity.integers import Counterparts


@dataclass(frozen=True)
class Tensor:
    """A line of parity.csv: a tensor that the program stores in integers. What was not measured is None."""

    tensor: str  # the node of the program that quantizes it
    operator: str  # kind of the operator that it is the result of
    module: str  # part of the model
    submodule: str  # the full name
    shape: str
    quantized_sqnr_db: float  # of the program, against floats
    integer_graph_sqnr_db: float | None  # of the graph, against floats
    step_sqnr_db: float | None  # of the graph, against the program
    counterpart: str | None  # the tensor of the graph
    operator_sqnr_db: float | None  # of the graph against the program, both given the graph's integers: what the operator alone departs
    differing: float | None  # the part of its integers that then differs
    most_steps: int | None  # and the largest difference


@dataclass(frozen=True)
class Departure:
    """The first module along the depth behind which the integer graph has lost more than the program has."""

    index: int  # of the tensor, in the order of execution
    module: str
    submodule: str
    operator: str
    quantized_sqnr_db: float
    integer_graph_sqnr_db: float
    cause: Tensor  # among the tensors up to there, the one whose operator alone departs most


def measure(program: Graph, graph: IntegerGraph | None, windows: Iterable[Sequence[torch.Tensor]]) -> list[Tensor]:
    """The tensors in the order of execution; `windows` are inputs as the program takes them, with the batch of one."""
    points = program.points
    read = [point.value for point in points]
    quantized, integers, step = ([Comparison() for _ in points] for _ in range(3))
    counterparts = Counterparts(graph, program) if graph else None
    shapes: dict[Point, str] = {}
    for inputs in windows:
        _, floats = program.run(*inputs, in_floats=True, keep=read)
        _, own = program.run(*inputs, keep=read)
        of_graph = counterparts.follow(inputs) if counterparts else {}
        for i, point in enumerate(points):
            wanted, found = floats[point.value], own[point.value]
            shapes[point] = "x".join(map(str, wanted.shape))
            quantized[i].add(wanted, found)
            if point.quantize in of_graph:
                integers[i].add(wanted, of_graph[point.quantize])
                step[i].add(found, of_graph[point.quantize])
    lines = []
    for i, point in enumerate(points):
        counterpart = counterparts.found.get(point.quantize) if counterparts and counterparts.found else None
        alone = counterparts.departures[point.quantize] if counterparts and counterpart else None
        lines.append(
            Tensor(
                tensor=point.quantize.name,
                operator=point.operator,
                module=Origin(point.path, True).module,
                submodule=point.path,
                shape=shapes[point],
                quantized_sqnr_db=round(quantized[i].sqnr_db, 2),
                integer_graph_sqnr_db=round(integers[i].sqnr_db, 2) if counterpart else None,
                step_sqnr_db=round(step[i].sqnr_db, 2) if counterpart else None,
                counterpart=counterpart.tensor if counterpart else None,
                operator_sqnr_db=round(alone.sqnr_db, 2) if alone else None,
                differing=round(alone.differing, 6) if alone else None,
                most_steps=alone.most_steps if alone else None,
            )
        )
    return lines


def depart(tensors: Sequence[Tensor], least_db: float) -> Departure | None:
    """Where the integer graph first falls behind the program by more than `least_db`; None where it nowhere does."""
    for i, one in enumerate(tensors):
        if one.integer_graph_sqnr_db is None or one.quantized_sqnr_db - one.integer_graph_sqnr_db <= least_db:
            continue
        before = [tensor for tensor in tensors[: i + 1] if tensor.operator_sqnr_db is not None]
        cause = min(before, key=_alone_db)
        return Departure(i, one.module, one.submodule, one.operator, one.quantized_sqnr_db, one.integer_graph_sqnr_db, cause)
    return None


def _alone_db(tensor: Tensor) -> float:
    """What an operator alone departs; infinite where that was not measured."""
    return math.inf if tensor.operator_sqnr_db is None else tensor.operator_sqnr_db


def by_operator(tensors: Sequence[Tensor]) -> dict[str, dict[str, Any]]:
    """What each kind of operator departs by itself, the worst first: of how many tensors, and of the worst of them."""
    kinds: dict[str, list[Tensor]] = {}
    for one in tensors:
        if one.operator_sqnr_db is not None:
            kinds.setdefault(one.operator, []).append(one)
    found: dict[str, dict[str, Any]] = {}
    for name, members in kinds.items():
        worst = min(members, key=_alone_db)
        found[name] = {
            "tensors": len(members),
            "departing": sum(bool(one.differing) for one in members),
            "worst_sqnr_db": _alone_db(worst),
            "worst_differing": worst.differing,
            "most_steps": max(one.most_steps or 0 for one in members),
            "worst_in": worst.submodule,
        }
    return dict(sorted(found.items(), key=lambda item: item[1]["worst_sqnr_db"]))


def by_module(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    """What each module along the depth leaves behind it: the last of the tensors that follow each other in it."""
    ends = [i for i, one in enumerate(tensors) if i + 1 == len(tensors) or tensors[i + 1].module != one.module]
    return [
        {
            "index": i,
            "module": tensors[i].module,
            "operator": tensors[i].operator,
            "quantized_sqnr_db": tensors[i].quantized_sqnr_db,
            "integer_graph_sqnr_db": tensors[i].integer_graph_sqnr_db,
        }
        for i in ends
    ]


def report(tensors: Sequence[Tensor], least_db: float) -> dict[str, Any]:
    """What parity.json says of the depth; `departs` is null where the integer graph nowhere falls behind by `least_db`."""
    departure = depart(tensors, least_db)
    return {
        "tensors": len(tensors),
        "counterparts": sum(one.counterpart is not None for one in tensors),
        "departs_db": least_db,
        "departs": departure and asdict(departure),
        "operators": by_operator(tensors),
        "modules": by_module(tensors),
    }
