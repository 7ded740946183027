"""What lowering to TOSA and to the host share: from a program and a partitioner to a program of ExecuTorch, and what of it runs where."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import executorch.kernels.quantized  # noqa: F401 (registers the kernels of quantize and dequantize on the CPU)
import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.backend.partitioner import Partitioner
from executorch.exir.lowered_backend_module import LoweredBackendModule
from executorch.exir.schema import Program
from torch.export import ExportedProgram

from earshot.quantize.tracing import lean_tracing, quiet


@dataclass
class Lowered:
    """A compiled program."""

    pte: bytes
    program: Program  # what `pte` was serialized from
    delegates: list[bytes]  # what the backend made of each part that it took
    operators_delegated: dict[str, int]  # edge operators by kind, as the delegates took them over
    operators_cpu: dict[str, int]  # those that are left to the CPU
    boundary: dict[str, dict] = field(default_factory=dict)  # "input", "output" ...: how the delegate's integers follow from floats


def lower(exported: ExportedProgram, partitioner: Partitioner) -> EdgeProgramManager:
    """Give a partitioner what it can take. The intermediate programs are not verified again: what matters is the backend's own checks."""
    config = EdgeCompileConfig(_check_ir_validity=False)
    with quiet(), lean_tracing():
        return to_edge_transform_and_lower(exported, partitioner=[partitioner], compile_config=config)


def finish(edge: EdgeProgramManager, quantized: bool) -> Lowered:
    """The .pte of a lowered program, and what of it runs where."""
    graph_module = edge.exported_program().graph_module
    delegates = [module for module in graph_module.modules() if isinstance(module, LoweredBackendModule)]
    delegated: Counter[str] = Counter()
    for delegate in delegates:
        delegated.update(_kinds(delegate.original_module.graph_module))
    cpu = _kinds(graph_module)
    boundary = _boundary(graph_module) if quantized and len(delegates) == 1 else {}
    with quiet(), lean_tracing():
        executorch = edge.to_executorch(ExecutorchBackendConfig())
    return Lowered(
        pte=bytes(executorch.buffer),
        program=executorch.executorch_program,
        delegates=[delegate.processed_bytes for delegate in delegates],
        operators_delegated=dict(sorted(delegated.items())),
        operators_cpu=dict(sorted(cpu.items())),
        boundary=boundary,
    )


def _kinds(graph_module: torch.fx.GraphModule) -> Counter[str]:
    """Operators by kind; calls of delegates and the unpacking of their results are none."""
    kinds: Counter[str] = Counter()
    for node in graph_module.graph.nodes:
        name = getattr(node.target, "_name", getattr(node.target, "__name__", str(node.target)))
        if node.op == "call_function" and name not in ("executorch_call_delegate", "getitem"):
            kinds[name.split("::")[-1].removesuffix(".default")] += 1
    return kinds


def _boundary(graph_module: torch.fx.GraphModule) -> dict[str, dict]:
    """How the inputs are quantized and the outputs dequantized; empty where anything else is left on the CPU.

    "input" and "output" are features and logits; a program with a cache has "cache_input" and "cache_output" too, the second of both in the
    delegate's graph as in the program.
    """
    calls = [node for node in graph_module.graph.nodes if node.op == "call_function" and getattr(node.target, "__name__", "") != "getitem"]
    quantize = [node for node in calls if ".quantize_per_tensor" in str(node.target) or "::quantize_per_tensor" in str(node.target)]
    dequantize = [node for node in calls if ".dequantize_per_tensor" in str(node.target) or "::dequantize_per_tensor" in str(node.target)]
    count = len(quantize)
    if count not in (1, 2) or len(dequantize) != count or len(calls) != 2 * count + 1:
        return {}
    (delegate,) = (node for node in calls if node not in quantize and node not in dequantize)
    (results,) = (node.args[0] for node in graph_module.graph.nodes if node.op == "output")
    sources = [node for node in graph_module.graph.nodes if node.op == "placeholder" and node in [one.args[0] for one in quantize]]
    inputs, outputs = list(delegate.args[1:]), list(results)
    if [node.args[0] for node in inputs] != sources or [node.args[0].args[1] for node in outputs] != list(range(count)):
        return {}
    ends = {}
    names = [*zip(("input", "cache_input"), inputs, strict=False), *zip(("output", "cache_output"), outputs, strict=False)]
    for name, node in names:
        _, scale, zero_point, low, high, dtype = node.args[:6]
        ends[name] = {
            "shape": list(node.meta["val"].shape),
            "dtype": str(dtype).removeprefix("torch."),
            "scale": scale,
            "zero_point": zero_point,
            "min": low,
            "max": high,
        }
    return ends
