"""The short cuts of a lowering, each against what torch makes without it; test_lower.py compares the whole."""

import operator

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeProgramManager, to_edge, to_edge_transform_and_lower
from executorch.exir.pass_base import ExportPass, NodeMetadata
from executorch.exir.program._program import _default_decomposition_table
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from earshot.quantize import dictionary
from earshot.quantize.decomposing import needed_decompositions
from earshot.quantize.lookups import indexed_signatures, whole_partitions
from earshot.quantize.retracing import remembered_results


class Network(torch.nn.Module):
    """Operators that are decomposed, that give several results, and, if asked for, one that writes to its input."""

    def __init__(self, writes: bool = False) -> None:
        super().__init__()
        self.norm, self.linear, self.writes = torch.nn.LayerNorm(8), torch.nn.Linear(8, 8), writes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.silu(self.linear(self.norm(x)))
        if self.writes:
            x.add_(1.0)
        first, second = x.reshape(2, 4, 4).split(2, dim=1)
        return torch.softmax(first, -1) + second


def exported(writes: bool = False) -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    return torch.export.export(Network(writes).eval().requires_grad_(False), (torch.randn(4, 8),), strict=True)


def calls(program: torch.export.ExportedProgram) -> list:
    """What a program computes and where each operator comes from; an operator stands for its name, which passes make anew."""
    order = {node: node.target if node.op == "placeholder" else i for i, node in enumerate(program.graph.nodes)}
    nodes = [(node.op, str(node.target), str(torch.fx.map_arg((node.args, node.kwargs), lambda one: order[one]))) for node in order]
    notes = [
        (list(node.meta.get("nn_module_stack", {}).values()), node.meta.get("stack_trace"), str(node.meta.get("val")))
        for node in order
        if node.op == "call_function"
    ]
    return [*nodes, *notes, str(program.graph_signature.input_specs), [spec.kind for spec in program.graph_signature.output_specs]]


class Supported(OperatorSupportBase):
    """All operators but those of some names."""

    def __init__(self, *refused: str) -> None:
        self.refused, self.asked = refused, []

    def is_node_supported(self, submodules, node: torch.fx.Node) -> bool:
        self.asked.append(node.name)
        return node.op == "call_function" and node.name not in self.refused


@pytest.mark.parametrize("refused", [(), ("split",), ("getitem",), ("linear", "softmax"), ("add", "layer_norm")])
@pytest.mark.parametrize("single", [True, False])
def test_partitions_are_those_that_torch_proposes(refused, single):
    graph = exported().graph_module

    def proposed() -> tuple[list, int]:
        support = Supported(*refused)
        partitions = CapabilityBasedPartitioner(graph, support, allows_single_node_partition=single).propose_partitions()
        return [(partition.id, list(partition.nodes.items())) for partition in partitions], len(support.asked)

    wanted = proposed()
    with whole_partitions():
        assert proposed() == wanted
    assert any(node.target is operator.getitem for node in graph.graph.nodes)


def test_a_signature_that_changes_is_looked_up_anew():
    signature = exported().graph_signature

    def parameters() -> dict:
        kind = torch.export.graph_signature.InputKind.PARAMETER
        return {spec.arg.name: spec.target for spec in signature.input_specs if spec.kind == kind}

    with indexed_signatures():
        assert signature.inputs_to_parameters is signature.inputs_to_parameters
        for change in (
            lambda: signature.replace_all_uses(next(iter(parameters())), "another"),
            lambda: setattr(signature.input_specs[1], "target", "elsewhere"),
            lambda: signature.input_specs.insert(0, signature.input_specs.pop(1)),
            lambda: signature.input_specs.pop(0),
            lambda: setattr(signature, "input_specs", signature.input_specs[1:]),
        ):
            before = list(parameters().items())
            change()
            assert before != list(signature.inputs_to_parameters.items()) == list(parameters().items())
    assert dict(signature.inputs_to_parameters) == parameters()


@pytest.mark.parametrize("writes", [False, True])
def test_what_is_left_out_of_decomposing_changes_nothing(writes):
    everything = _default_decomposition_table()
    kept = {target: how for target, how in everything.items() if "silu" not in str(target)}

    def lowered(*tables: dict) -> list:
        program = exported(writes)
        for table in tables:
            program = program.run_decompositions(dict(table))
        return calls(program)

    for tables in (({}, everything), ({}, everything, everything), ({}, kept, everything), ({}, kept, kept)):
        wanted = lowered(*tables)
        with needed_decompositions():
            assert lowered(*tables) == wanted


def test_a_decomposition_that_would_change_nothing_is_not_run():
    program, everything = exported(), _default_decomposition_table()
    with needed_decompositions():
        assert program.run_decompositions({}) is program
        decomposed = program.run_decompositions(dict(everything))
        assert decomposed is not program and decomposed.run_decompositions(dict(everything)) is decomposed
        writing = exported(writes=True)
        assert writing.run_decompositions({}) is not writing


class Repeated(torch.nn.Module):
    """Blocks that are alike but for their weights; `ends` is what is given besides: nothing, the input, a view of it, or a constant."""

    def __init__(self, blocks: int, ends: str) -> None:
        super().__init__()
        self.blocks, self.ends = torch.nn.ModuleList(Network() for _ in range(blocks)), ends
        self.convolution = torch.nn.Conv1d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple:
        y = x
        for block in self.blocks:
            z = block(y).flatten(0)[: y.numel() // 2].reshape(y.shape[0] // 2, 8)
            y = self.convolution(torch.cat([z, z], dim=0).t().unsqueeze(0)).squeeze(0).transpose(0, 1)
        return y, *{"": (), "input": (x,), "view": (x.view(8, 4)[1:],), "constant": (3, None)}[self.ends]


@pytest.mark.parametrize("ends", ["", "input", "view", "constant"])
def test_a_program_is_decomposed_by_kinds_of_calls_to_what_torch_makes_of_the_whole(ends):
    torch.manual_seed(0)
    network = Repeated(4, ends).eval().requires_grad_(False)
    program = torch.export.export(network, (torch.randn(4, 8),), strict=True)
    lengths = []

    def run(given: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
        lengths.append(len(given.graph.nodes))
        return given.run_decompositions(dict(_default_decomposition_table()))

    wanted, found = run(program), dictionary.decomposed(program, run)
    assert calls(found) == calls(wanted)
    assert (lengths[1] < lengths[0]) == (not ends)
    x = torch.randn(4, 8)
    for one, other in zip(found.module()(x), wanted.module()(x), strict=True):
        assert one is other or one == other if not isinstance(one, torch.Tensor) else torch.equal(one, other)


class Doubled(ExportPass):
    """A pass that writes each SiLU twice, with notes of its own, and fills in constants."""

    def call_operator(self, op, args, kwargs, meta):
        if "silu" not in str(op) and "sigmoid" not in str(op):
            return super().call_operator(op, args, kwargs, meta)
        self.described = self.node_debug_str
        first = super().call_operator(op, args, kwargs, meta)
        fresh = NodeMetadata({key: value for key, value in meta.data.items() if key not in ("from_node", "seq_nr")})
        second = super().call_operator(op, args, kwargs, fresh)
        product = super().call_operator(torch.ops.aten.mul.Tensor, (first, second), {}, meta)
        ones = super().call_operator(torch.ops.aten.full.default, ([4, 8], 1.0), {"dtype": torch.float32}, meta)
        return super().call_operator(torch.ops.aten.add.Tensor, (product, ones), {}, meta)


def written(graph_module: torch.fx.GraphModule) -> list:
    """All that later passes may look at, of each node."""

    def plain(key: str, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.shape, value.stride(), value.dtype, value.device, value.requires_grad
        return [source.to_dict() for source in value] if key == "from_node" else str(value)

    return [(node.format_node(), [(key, plain(key, value)) for key, value in node.meta.items()]) for node in graph_module.graph.nodes]


@pytest.mark.parametrize("kind", [ExportPass, Doubled])
def test_what_a_pass_writes_is_the_same_with_results_remembered(kind):
    graph = to_edge(exported()).exported_program().graph_module
    plain, quick = kind(), kind()
    wanted = written(plain(graph).graph_module)
    with remembered_results():
        found = written(quick(graph).graph_module)
        again = written(kind()(graph).graph_module)
    assert found == wanted == again
    assert getattr(quick, "described", "") == getattr(plain, "described", "")
    assert len(wanted) > len(graph.graph.nodes) or kind is ExportPass


def test_what_a_delegate_gives_is_told_from_its_graph():
    def lowered() -> EdgeProgramManager:
        return to_edge_transform_and_lower(exported(), partitioner=[XnnpackPartitioner()])

    def values(manager: EdgeProgramManager) -> list:
        graph = ExportPass()(manager.exported_program().graph_module).graph_module.graph
        return [str(node.meta["val"]) for node in graph.nodes if "executorch_call_delegate" in node.name]

    manager = lowered()
    wanted, content = values(manager), manager.to_executorch().buffer
    assert wanted
    with remembered_results():
        quick = lowered()
        assert values(quick) == wanted
        assert quick.to_executorch().buffer == content
