"""What lowering to TOSA and to the host share: from a program and a partitioner to a program of ExecuTorch, and what of it runs where."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field

import executorch.kernels.quantized  # noqa: F401 (registers the kernels of quantize and dequantize on the CPU)
import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.backend.partitioner import Partitioner
from executorch.exir.lowered_backend_module import LoweredBackendModule
from executorch.exir.schema import KernelCall, Program
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
    boundary = _boundary(graph_module) if quantized else {}
    # Only where an NPU leaves layers to the CPU are there constants to prepare for it: the transposed weights of a linear layer.
    with quiet(), lean_tracing():
        executorch = edge.to_executorch(ExecutorchBackendConfig(do_quant_fusion_and_const_prop=bool(boundary)))
    return Lowered(
        pte=bytes(executorch.buffer),
        program=executorch.executorch_program,
        delegates=[delegate.processed_bytes for delegate in delegates],
        operators_delegated=dict(sorted(delegated.items())),
        operators_cpu=dict(sorted(_left(executorch.executorch_program).items())),
        boundary=boundary,
    )


def _kinds(graph_module: torch.fx.GraphModule) -> Counter[str]:
    """The operators of a delegate's part by kind."""
    targets = [node.target for node in graph_module.graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
    return Counter(target._name.split("::")[-1].removesuffix(".default") for target in targets)


def _left(program: Program) -> Counter[str]:
    """The kernels that a program calls beside its delegates, by kind."""
    (plan,) = program.execution_plan
    calls = [one.instr_args for chain in plan.chains for one in chain.instructions if isinstance(one.instr_args, KernelCall)]
    return Counter(plan.operators[call.op_index].name.split("::")[-1] for call in calls)


def _boundary(graph_module: torch.fx.GraphModule) -> dict[str, dict]:
    """How the inputs of the one delegate are quantized and its outputs dequantized; empty where the CPU has more to do before or between.

    "input" and "output" are of features and logits; a program with a cache has "cache_input" and "cache_output" too, the second of both in
    the delegate's graph as in the program. The logits may be what layers in floats make of the first output, see lower.float_tail.
    """
    calls = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    delegates = [node for node in calls if getattr(node.target, "__name__", "") == "executorch_call_delegate"]
    if len(delegates) != 1:
        return {}
    inputs = list(delegates[0].args[1:])
    if not all(_is_of(node, "quantize_per_tensor") and node.args[0].op == "placeholder" for node in inputs):
        return {}
    sources = [node.args[0] for node in inputs]
    in_order = [node for node in graph_module.graph.nodes if node in sources] == sources
    parts = sorted(delegates[0].users, key=lambda node: node.args[1])
    outputs = [next(iter(part.users), None) for part in parts]  # several layers may read one: each has a dequantize node of its own
    results = graph_module.graph.output_node().args[0]
    if not in_order or len(inputs) not in (1, 2) or not len(inputs) == len(outputs) == len(results):
        return {}
    alone = all(list(source.users) == [node] for source, node in zip(sources, inputs, strict=True))
    dequantized = all(_is_of(node, "dequantize_per_tensor") for part in parts for node in part.users)
    if not alone or not dequantized or results[1:] != (*outputs[1:],) or _reads(results[0], parts) != {parts[0]}:
        return {}
    names = [*zip(("input", "cache_input"), inputs, strict=False), *zip(("output", "cache_output"), outputs, strict=False)]
    return {name: _end(node) for name, node in names}


def _is_of(node: torch.fx.Node | None, kind: str) -> bool:
    """Whether a node is of an operator for quantization."""
    return node is not None and f".{kind}" in str(node.target).replace("::", ".")


def _reads(node: torch.fx.Node, parts: list[torch.fx.Node]) -> set[torch.fx.Node]:
    """Which of `parts` a node is computed from."""
    seen, pending = set(), [node]
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending += [] if node in parts else node.all_input_nodes
    return seen.intersection(parts)


def _end(node: torch.fx.Node) -> dict:
    """What quantize and dequantize nodes say of the integers on one of their sides."""
    _, scale, zero_point, low, high, dtype = node.args[:6]
    return {
        "shape": list(node.meta["val"].shape),
        "dtype": str(dtype).removeprefix("torch."),
        "scale": scale,
        "zero_point": zero_point,
        "min": low,
        "max": high,
    }
