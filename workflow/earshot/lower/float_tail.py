"""The last layers of a program where a scheme leaves them in floats: behind the NPU's part, the CPU runs them.

The NPU's graph then ends with the integers that they read. What they make of these, PyTorch computes here in the same floats of 32 bits;
the kernels of the device may add in another order, which is rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode

from earshot.errors import ArtifactError, LoweringError
from earshot.files import sha256
from earshot.quantize import program
from earshot.quantize.module_paths import kind
from earshot.quantize.tracing import lean_tracing, quiet

TAIL = "float_tail.pt2"


@dataclass
class Tail:
    """The layers as a program, floats [1, ...] to logits [1, T', V], and what they cost the CPU."""

    program: ExportedProgram
    macs: int  # of a window
    weights_kib: float


def cut(exported: ExportedProgram) -> Tail | None:
    """What a quantized program computes behind its last integers; None where these are its logits.

    Raises:
        LoweringError: the layers in floats read integers of several places.
    """
    whole = exported.module(check_guards=False)
    logits = whole.graph.output_node().args[0][0]
    enters, own, pending = set(), set(), [logits]
    while pending:
        node = pending.pop()
        if kind(node) == "dequantize_per_tensor":
            enters.add(node)
        elif node not in own:
            own.add(node)
            pending += node.all_input_nodes
    if logits in enters:
        return None
    if len({node.args[0] for node in enters}) != 1:
        raise LoweringError("the last layers in floats read integers of several places; leave whole modules in floats, or none")
    graph = torch.fx.Graph()
    copies = dict.fromkeys(enters, graph.placeholder("x"))
    for node in whole.graph.nodes:
        if node in own:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[logits])
    given = torch.zeros(next(iter(enters)).meta["val"].shape)
    with quiet(), lean_tracing():
        tail = torch.export.export(GraphModule(whole, graph), (given,), strict=False)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        tail.module(check_guards=False)(given)
    size = sum(one.numel() * one.element_size() for one in [*tail.state_dict.values(), *tail.constants.values()])
    return Tail(tail, counted.get_total_flops() // 2, size / 1024)


class FloatLayers:
    """A tail that is run by PyTorch: the floats of the graph's first output to logits [T', V]. Can be pickled, as its path."""

    def __init__(self, path: Path, digest: str) -> None:
        """Read the tail of a program or variant directory.

        Raises:
            ArtifactError: absent, damaged, or not the one with this SHA-256.
        """
        self._source = path, digest
        tail = program.read(path)
        if sha256(path) != digest:
            raise ArtifactError(f"{path}: damaged, not what the tosa step made; delete it and run that step again")
        self._module = tail.module(check_guards=False)

    def __reduce__(self) -> tuple:
        return FloatLayers, self._source

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._module(x[None])[0]
