"""Decomposing programs no oftener than something changes.

A lowering decomposes a program two or three times, each time by tracing all of it: first with an empty table, to make operators that write
to their inputs functional; then with the operators that the backend asked to keep left out of the table; then with all of the table, for
those of the kept that the backend does not take after all. Within `needed_decompositions` a run is left out where its input shows that it
would change nothing: the first where no operator writes to anything, and the last where no operator of the table is left. The others look
at each kind of call once, see `dictionary`.
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from earshot.quantize.dictionary import decomposed as by_kind
from earshot.quantize.replacing import replaced


def _functional(program: ExportedProgram) -> bool:
    """Whether no operator of a program writes to its inputs; a graph within the graph is not looked into."""
    if any(spec.kind != OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
        return False
    calls = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
    overloads = [node.target for node in calls if isinstance(node.target, torch._ops.OpOverload)]
    others = {node.target for node in calls if not isinstance(node.target, torch._ops.OpOverload)}
    return others <= {operator.getitem} and not any(overload._schema.is_mutable for overload in overloads)


@contextlib.contextmanager
def needed_decompositions() -> Iterator[None]:
    """Leave out decompositions that change nothing."""
    run: Callable[..., ExportedProgram] = ExportedProgram.run_decompositions
    decomposed: weakref.WeakSet[ExportedProgram] = weakref.WeakSet()

    def run_needed(self: ExportedProgram, decomp_table: dict[Any, Callable] | None = None, **options: Any) -> ExportedProgram:
        if decomp_table is not None and not options:
            nothing_to_write = not len(decomp_table) and _functional(self)
            if nothing_to_write or (self in decomposed and not any(node.target in decomp_table for node in self.graph.nodes)):
                return self

        def whole(program: ExportedProgram) -> ExportedProgram:
            return run(program, decomp_table, **options)

        repeats = decomp_table is not None and not options and _functional(self)
        result = by_kind(self, whole) if repeats else whole(self)
        decomposed.add(result)
        return result

    with replaced(ExportedProgram, "run_decompositions", run_needed):
        yield
