"""Which module of the model an operator of the compiled graph comes from.

Arm's lowering writes down (its debug mode JSON) the stack of modules of the node that each TOSA operator was made from. The stack is lost
where a quantizer rewrites what a module does, and where a pass makes an operator of its own: these take the module of what uses them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from earshot.errors import ArtifactError
from earshot.files import read_json, sha256, write_json
from earshot.lower import tosa_operators
from earshot.lower.tosa_operators import Operator
from earshot.parts import part_of

MODULES = "graph_modules.json"  # beside the graph
TRACE = "debug.json"  # in the folder of intermediate files
MODEL = "model"  # what the outermost module itself does, between its parts
_TRACED = "GraphModule"  # the class of a module that a rewritten graph was wrapped in: it says nothing of the model


@dataclass(frozen=True)
class Origin:
    """Where an operator comes from."""

    path: str  # dotted names, such as blocks.0.feed_forward1.widen
    exact: bool  # told by the compiler; otherwise taken from the nearest operator that uses the result, or else that makes an input

    @property
    def module(self) -> str:
        """The part of the model."""
        return part_of(self.path)


def write(graph: Path, trace: Path) -> None:
    """Write graph_modules.json beside a graph: where each of its operators comes from.

    Raises:
        ArtifactError: a file is absent or damaged, or they are of two graphs.
    """
    found = origins(tosa_operators.read(graph), trace)
    exact, nearest = ({name: one.path for name, one in found.items() if one.exact == told} for told in (True, False))
    write_json(graph.with_name(MODULES), {"graph_sha256": sha256(graph), "exact": exact, "nearest": nearest})


def read(graph: Path) -> dict[str, Origin]:
    """What `write` wrote of this graph, see `origins`.

    Raises:
        ArtifactError: it is absent, damaged, or of another graph.
    """
    path = graph.with_name(MODULES)
    content = read_json(path)
    if content.get("graph_sha256") != sha256(graph):
        raise ArtifactError(f"{path}: of another graph than {graph.name}; lower the program again")
    return {name: Origin(module, kind == "exact") for kind in ("exact", "nearest") for name, module in content[kind].items()}


def origins(operators: Sequence[Operator], trace: Path) -> dict[str, Origin]:
    """The origin of each operator that computes something, by the tensor that it makes.

    Args:
        operators: of the whole graph.
        trace: the debug.json of the lowering that made the graph.

    Raises:
        ArtifactError: `trace` is absent, damaged, or of another graph.
    """
    told = _told(trace)
    unknown = [one.outputs[0] for one in operators if not one.is_constant and one.outputs[0] not in told]
    if unknown:
        raise ArtifactError(f"{trace}: says nothing of {len(unknown)} operators of the graph ({unknown[0]}, ...); lower again")
    paths = [None if one.is_constant else told[one.outputs[0]] for one in operators]
    makers = {name: i for i, one in enumerate(operators) for name in one.outputs}
    before = [[makers[name] for name in one.inputs if name in makers] for one in operators]
    after: list[list[int]] = [[] for _ in operators]
    for i, inputs in enumerate(before):
        for j in inputs:
            after[j].append(i)
    found = {}
    for i, (one, path) in enumerate(zip(operators, paths, strict=True)):
        if not one.is_constant:
            nearest = path if path is not None else _nearest(i, after, paths) or _nearest(i, before, paths) or MODEL
            found[one.outputs[0]] = Origin(nearest, path is not None)
    return found


def _told(trace: Path) -> dict[str, str | None]:
    """Tensor to the path of the module it was made in, None where the stack is lost."""
    try:
        return {event["tosa_info"]["node_name"]: _path(event["torch_info"]["nn_module_stack"]) for event in json.loads(trace.read_text())}
    except FileNotFoundError:
        raise ArtifactError(f"{trace}: no such file; lower again") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{trace}: not what Arm's lowering writes in its debug mode ({error!r}); lower again") from error


def _path(stack: dict[str, list[str]] | str) -> str | None:
    if isinstance(stack, str) or not stack:  # a sentence says that there is none
        return None
    path, kind = list(stack.values())[-1]
    return path or (None if _TRACED in kind else MODEL)


def _nearest(start: int, neighbours: Sequence[Iterable[int]], paths: Sequence[str | None]) -> str | None:
    """The path of the nearest operator in one direction that has one."""
    seen, ring = {start}, [start]
    while ring:
        ring = [j for j in dict.fromkeys(j for i in ring for j in neighbours[i]) if j not in seen]
        seen.update(ring)
        for j in ring:
            if paths[j] is not None:
                return paths[j]
    return None
