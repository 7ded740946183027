"""Whole networks as integer graphs: our executor and TOSA's reference model give the same bits, whatever the scheme and form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tosa_graphs import reference

from earshot.config import Calib, Model, Quant
from earshot.lower import module_names, to_tosa, tosa_operators
from earshot.lower.tosa_executor.executor import Executor
from earshot.model import Conformer
from earshot.model.npu import to_npu
from earshot.quantize import program, schemes

FRAMES, N_MELS, OUTPUTS = 45, 16, 7
SCHEMES = {
    "int8_pc": Quant(scheme="int8_pc"),
    "int8_pt": Quant(scheme="int8_pt", per_channel=False),
    "a16w8": Quant(scheme="a16w8", activation_bits=16),
    "a8w4": Quant(scheme="a8w4", weight_bits=4),
}
FORMS = [(scheme, npu_form, "u85") for scheme in SCHEMES for npu_form in (True, False)] + [("int8_pc", True, "u55"), ("int8_pt", False, "u55")]


def network(npu_form: bool) -> tuple[torch.nn.Module, Conformer]:
    """A Conformer of one layer, none of whose parameters is what it is before training, in one of its forms."""
    torch.manual_seed(0)
    model = Conformer(Model(dim=12, layers=1, heads=2, conv_kernel=5, subsampling_channels=[4, 6]), N_MELS, OUTPUTS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.eval()
    return (to_npu(model, FRAMES, N_MELS, 1024) if npu_form else model.for_window(FRAMES)), model


@pytest.fixture(scope="session")
def lowered(tmp_path_factory):
    """A function that gives the graph of a scheme and form, made once."""
    made: dict[tuple, to_tosa.TosaGraph] = {}

    def of(scheme: str, npu_form: bool, family: str) -> to_tosa.TosaGraph:
        key = scheme, npu_form, family
        if key not in made:
            exported = program.export(*network(npu_form), FRAMES, N_MELS)
            inputs = [torch.randn(1, FRAMES, N_MELS, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
            quantizer = schemes.quantizer(SCHEMES[scheme], Calib(observer="minmax"), family)
            converted = program.quantize(exported, quantizer, inputs)
            log = tmp_path_factory.mktemp("lowered") / "tosa.log"
            made[key] = to_tosa.lower(program.reexport(converted, FRAMES, N_MELS), schemes.operator_set(family), log)
        return made[key]

    return of


def inputs(graph: to_tosa.TosaGraph) -> dict[str, np.ndarray]:
    """Random input that fills the range it was calibrated for, and the ends of the type."""
    end = graph.boundary["input"]
    numbers = np.random.default_rng(1)
    usual = (numbers.standard_normal(end["shape"]) / end["scale"] + end["zero_point"]).round().clip(end["min"], end["max"])
    given = {
        "usual": usual,
        "least": np.full(end["shape"], end["min"]),
        "greatest": np.full(end["shape"], end["max"]),
        "spread": numbers.integers(end["min"], end["max"], end["shape"], endpoint=True),
        "ends": numbers.choice([end["min"], end["max"]], end["shape"]),
    }
    return {name: values.astype(end["dtype"]) for name, values in given.items()}


@pytest.mark.parametrize(("scheme", "npu_form", "family"), FORMS)
def test_a_network_gives_the_bits_of_the_reference_model(lowered, scheme, npu_form, family):
    graph = lowered(scheme, npu_form, family)
    executor = Executor(graph.content, Path("graph.tosa"))
    for name, integers in inputs(graph).items():
        wanted, found = reference(graph.content, integers), executor.run(integers)[executor.output]
        assert found.dtype == wanted.dtype == graph.boundary["output"]["dtype"] and found.shape == (1, 10, OUTPUTS)
        np.testing.assert_array_equal(found, wanted, err_msg=name)
    assert len(np.unique(found)) > 5


def test_every_module_of_the_network_can_be_looked_into(lowered, tmp_path):
    graph = lowered("int8_pc", True, "u85")
    path, trace = tmp_path / "graph.tosa", tmp_path / "debug.json"
    path.write_bytes(graph.content)
    trace.write_text(graph.trace)
    integers = inputs(graph)["usual"]
    operators = tosa_operators.read(path)
    executor = Executor(graph.content, path)
    names = list(module_names.origins(operators, trace))
    found = executor.run(integers, keep=names)
    assert set(names) <= set(found)
    declared = tosa_operators.read_graph(graph.content, path).tensors
    assert all(found[name].shape == declared[name].shape for name in names)
    np.testing.assert_array_equal(found[executor.output], reference(graph.content, integers))
