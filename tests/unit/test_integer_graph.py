"""Whole networks as integer graphs: our executor and TOSA's reference model give the same bits, whatever the scheme and form."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from tosa_graphs import reference

from earshot.config import Calib, Quant
from earshot.errors import ArtifactError
from earshot.lower import module_names, to_tosa, tosa_operators
from earshot.lower.tosa import as_tosa
from earshot.lower.tosa_executor.executor import Executor
from earshot.model.conformer import FeedForward
from earshot.model.npu.attention import attend
from earshot.model.npu.layers import NpuFeedForward
from earshot.quantize import program, schemes

FRAMES, BINS, DIM, OUTPUTS = 13, 8, 8, 5
SCHEMES = {
    "int8_pc": Quant(scheme="int8_pc"),
    "int8_pt": Quant(scheme="int8_pt", per_channel=False),
    "a16w8": Quant(scheme="a16w8", activation_bits=16),
    "a8w4": Quant(scheme="a8w4", weight_bits=4),
    "int8_uint8_io": Quant(scheme="int8_uint8_io", uint8_io=True),
}


class Plain(nn.Module):
    """What a Conformer is made of as it is trained, each once: it is lowered in seconds, and a whole block in half a minute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.widen = nn.Conv2d(1, 4, 3, stride=2), nn.LayerNorm(DIM), nn.Linear(12, DIM)
        self.depthwise, self.out = nn.Conv1d(DIM, DIM, 5, padding=2, groups=DIM), nn.Linear(DIM, 2 * OUTPUTS)

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x_btf[:, None])).transpose(1, 2).flatten(2)
        x = self.norm(nn.functional.silu(self.widen(x)))
        x = x + torch.matmul(torch.softmax(torch.matmul(x, x.transpose(1, 2)), dim=-1), x)
        return nn.functional.glu(self.out(self.depthwise(x.transpose(1, 2)).transpose(1, 2)))


class Rewritten(nn.Module):
    """Parts of the NPU form: a piece of the features, the stream [1, D, 1, T], the feed-forward, and attention head by head."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Conv2d(BINS, DIM, 1), nn.Conv2d(DIM, OUTPUTS, 1)
        self.feed_forward = NpuFeedForward(FeedForward(DIM, 2, 0.0))

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        x = self.enter(x_btf[:, 1:].transpose(1, 2)[:, :, None])
        x = x + self.feed_forward(x)
        keys, values = x.squeeze(2), x.permute(0, 2, 3, 1)[:, 0]
        heads = attend(torch.matmul(values, keys), values)
        return self.out(heads.transpose(1, 2)[:, :, None]).squeeze(2).transpose(1, 2)


FORMS = [
    ("int8_pc", Plain, "u55"),
    ("int8_pt", Plain, "u85"),
    ("a16w8", Plain, "u85"),
    ("a8w4", Rewritten, "u85"),
    ("int8_uint8_io", Rewritten, "u55"),
]


@pytest.fixture(scope="session")
def lowered(tmp_path_factory):
    """A function that gives the graph of a scheme and form, made once."""
    made: dict[tuple, to_tosa.TosaGraph] = {}

    def of(scheme: str, form: type[nn.Module], family: str) -> to_tosa.TosaGraph:
        key = scheme, form, family
        if key not in made:
            torch.manual_seed(0)
            network = form().eval().requires_grad_(False)
            given = [(torch.randn(1, FRAMES, BINS, generator=torch.Generator().manual_seed(seed)),) for seed in range(3)]
            exported = torch.export.export(network, given[0], strict=True)
            converted = program.quantize(
                exported, schemes.quantizer(SCHEMES[scheme], Calib(observer="minmax"), family, exported.graph_module), given
            )
            log = tmp_path_factory.mktemp("lowered") / "tosa.log"
            made[key] = to_tosa.lower(program.reexport(converted, (1, FRAMES, BINS)), schemes.operator_set(family), log)
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


@pytest.mark.parametrize(("scheme", "form", "family"), FORMS)
def test_a_network_gives_the_bits_of_the_reference_model(lowered, scheme, form, family):
    graph = lowered(scheme, form, family)
    executor = Executor(graph.content, Path("graph.tosa"))
    defined = 0
    for name, given in inputs(graph).items():
        integers = as_tosa(given)
        wanted = reference(graph.content, integers)
        if wanted is None:
            with pytest.raises(ArtifactError, match="TOSA_UNPREDICTABLE"):
                executor.run(integers)
            continue
        found, defined = executor.run(integers)[executor.outputs[0]], defined + 1
        assert found.dtype == wanted.dtype == as_tosa(np.zeros(1, graph.boundary["output"]["dtype"])).dtype
        np.testing.assert_array_equal(found, wanted, err_msg=name)
        assert name in ("least", "greatest") or len(np.unique(found)) > 5
    assert defined


def test_a_program_of_unsigned_ends_takes_and_gives_numbers_of_0_to_255(lowered):
    ends = lowered("int8_uint8_io", Rewritten, "u55").boundary
    assert all((end["dtype"], end["min"], end["max"]) == ("uint8", 0, 255) for end in (ends["input"], ends["output"]))


def test_every_module_of_the_network_can_be_looked_into(lowered, tmp_path):
    graph = lowered("a8w4", Rewritten, "u85")
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
    np.testing.assert_array_equal(found[executor.outputs[0]], reference(graph.content, integers))
