"""From layers of the compiler to modules of the model, on graphs small enough to follow by hand."""

import json
import xml.etree.ElementTree as ElementTree

import pytest

from earshot.errors import ArtifactError
from earshot.lower import cycle_plot, memory_plot, module_names
from earshot.lower.cycle_report import Layer, Rates, layers, sums
from earshot.lower.module_names import Origin
from earshot.lower.tosa_operators import Operator
from earshot.lower.vela_database import Estimate


def operator(kind: str, inputs: str, output: str, macs: int = 0) -> Operator:
    return Operator(kind, tuple(inputs.split()), (output,), macs)


def estimate(name: str, kind: str, source: int, cycles: int, macs: int = 0, weight_bytes: int = 0) -> Estimate:
    return Estimate(name, kind, source, cycles, cycles, macs, weight_bytes, weight_bytes)


def write_trace(path, **modules):
    """A trace as Arm's lowering writes it; None: the module was lost."""
    events = []
    for tensor, module in modules.items():
        stack = {"a": ["", "GraphModuleImpl" if module is None else "Net"], **({"b": [module, "Linear"]} if module else {})}
        events.append({"tosa_info": {"node_name": tensor}, "torch_info": {"nn_module_stack": stack}})
    path.write_text(json.dumps(events))
    return path


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("subsampling.conv1", "subsampling"),
        ("blocks.0", "blocks.0"),
        ("blocks.11.feed_forward1.widen", "blocks.11.feed_forward1"),
        ("encoder.layers.3.attention.heads.1.query", "encoder.layers.3.attention"),
        ("output", "output"),
        (module_names.MODEL, "model"),
    ],
)
def test_parts_of_the_model_are_named_by_their_block(path, module):
    assert Origin(path, True).module == module


def test_what_the_compiler_made_takes_the_module_that_uses_it(tmp_path):
    graph = [
        operator("CONST", "", "weights"),
        operator("CONV2D", "x weights bias", "a"),
        operator("RESCALE", "a", "b"),
        operator("TABLE", "b", "c"),
        operator("MUL", "c a", "d"),
        operator("RESCALE", "d", "out"),
    ]
    found = module_names.origins(graph, write_trace(tmp_path / "debug.json", a="first", b=None, c=None, d="second", out=None))
    assert "weights" not in found
    assert found["a"] == Origin("first", True)
    assert found["b"] == found["c"] == Origin("second", False), "what follows decides"
    assert found["out"] == Origin("second", False), "nothing follows"


def test_what_the_model_itself_does_has_a_name(tmp_path):
    found = module_names.origins([operator("ADD", "x y", "z")], write_trace(tmp_path / "debug.json", z=""))
    assert found == {"z": Origin(module_names.MODEL, True)}


def test_a_trace_of_another_graph_or_a_damaged_one_is_refused(tmp_path):
    trace, graph = tmp_path / "debug.json", [operator("ADD", "x y", "z")]
    for spoil in (
        lambda: write_trace(trace, other="first"),
        lambda: trace.write_text("[{]"),
        lambda: trace.write_text('[{"a": 1}]'),
        trace.unlink,
    ):
        spoil()
        with pytest.raises(ArtifactError, match=r"debug\.json: .*lower again"):
            module_names.origins(graph, trace)


def test_multiplications_are_those_of_the_model_and_weights_count_once():
    graph = [
        operator("MATMUL", "q k", "scores", 1000),
        operator("CONV2D", "x shared bias", "a", 512),
        operator("CONV2D", "y shared bias", "b", 512),
    ]
    origins = {"scores": Origin("attention", True), "a": Origin("conv", True), "b": Origin("conv", False)}
    table = layers(
        graph,
        origins,
        [
            estimate("k/Transpose", "Transpose", 0, 50, macs=40),
            *(estimate(f"head{i}", "MatMul", 0, 100, macs=300) for i in range(3)),
            estimate("a", "Conv2D", 1, 10, macs=99, weight_bytes=700),
            estimate("b", "Conv2D", 2, 10, macs=99, weight_bytes=700),
        ],
        sram=[100, 300, 300, 300, 200, 50],
    )
    assert [one.macs for one in table] == [0, 333, 333, 334, 512, 512]
    assert [one.weight_bytes for one in table] == [0, 0, 0, 0, 700, 0]
    found = sums(table, lambda one: one.module, Rates(macs=256, flash_bytes=0.5))
    assert (found["attention"]["cycles"], found["attention"]["mac_floor_cycles"]) == (350, 4)
    assert found["conv"]["mac_utilisation"] == 1024 / (20 * 256)
    assert (found["conv"]["flash_floor_cycles"], found["conv"]["flash_bytes"]) == (1400, 1400)
    assert (found["conv"]["cycles"], found["conv"]["cycles_exact"]) == (20, 10)


@pytest.mark.parametrize(("blocks", "shown"), [(2, "blocks.1.part0"), (16, "blocks.*.part0 (16)")])
def test_the_picture_names_modules_and_joins_many_blocks(blocks, shown):
    modules = ["subsampling", *(f"blocks.{i}.part{j}" for i in range(blocks) for j in range(4))]
    table = [Layer("x", kind, "ADD", name, name, "exact", 1000, 1000, 0, 0, 0, 2048) for name in modules for kind in ("Add", "Mul")]
    figures = {name: {"mac_floor_cycles": 10, "flash_floor_cycles": 0} for name in modules}
    total = {"cycles": 2_000_000, "mac_utilisation": 0.25, "mac_floor_cycles": 500_000, "flash_floor_cycles": 0}
    text = " ".join(ElementTree.fromstring(cycle_plot.svg(table, modules, figures, total)).itertext())
    assert all(
        word in text for word in ("subsampling", shown, "Add", "Mul", "2.00 million cycles, 25% of the MAC rate", "0.50 for the MACs")
    )


def test_the_picture_of_memory_names_the_layer_of_the_peak():
    held = {"subsampling": 900, "blocks.0.attention": 700, "output": 100}
    table = [
        Layer(f"op{i}", "Conv2D", "CONV2D", name, name, "exact", 1000, 1000, 0, 0, 0, 1024 * kib)
        for i, (name, kib) in enumerate(held.items())
    ]
    text = " ".join(ElementTree.fromstring(memory_plot.svg(table, 1000.0)).itertext())
    assert "1,000 KiB reserved; most in use 900 KiB: subsampling, Conv2D (op0)" in text and "0.attention" in text
