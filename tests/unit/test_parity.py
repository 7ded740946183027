"""The parity ladder on a small network with an operator that the compiler computes otherwise than PyTorch: it is found and named."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch import nn

from earshot.config import Calib, Model, Quant
from earshot.files import sha256, write_json
from earshot.lower import to_tosa
from earshot.lower.tosa import IntegerGraph
from earshot.model.conformer import Conformer, FeedForward
from earshot.model.npu.layers import NpuFeedForward
from earshot.parity import depth, plot, table, trained
from earshot.parity.figures import MOST_DB, Comparison, decibels
from earshot.parity.graph import Graph
from earshot.quantize import program, schemes
from earshot.tokenizer import BLANK, write_pieces

FRAMES, BINS, DIM, OUTPUTS = 24, 8, 8, 5


class Turn(nn.Module):
    """Its result with the other sign, twice: as a product and by an operator of its own, which is the same in floats."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(DIM, DIM, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = nn.functional.silu(self.conv(x * -1.0))
        beside_x = torch.cat([turned, x], 1)[:, :DIM]  # the same, within the wider range that both share: the operator's result has its own
        return torch.neg(beside_x)


class Network(nn.Module):
    """Features [1, T, 8] to logits [1, T, 5]; the stream is [1, D, 1, T]."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Conv2d(BINS, DIM, 1), nn.Conv2d(DIM, OUTPUTS, 1)
        self.feed_forward, self.turn = NpuFeedForward(FeedForward(DIM, 2, 0.0)), Turn()

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        x = self.enter(x_btf.transpose(1, 2)[:, :, None])
        x = self.turn(x + self.feed_forward(x))
        return self.out(x).squeeze(2).transpose(1, 2)


def build(folder, front_end):
    """The program of the network and its integer graph, as the stages leave them; returns both and the network."""
    torch.manual_seed(0)
    network = Network().eval().requires_grad_(False)
    given = [(torch.randn(1, FRAMES, BINS, generator=torch.Generator().manual_seed(seed)),) for seed in range(4)]
    exported = torch.export.export(network, given[0], strict=True)
    quantizer = schemes.quantizer(Quant(scheme="int8_pc"), Calib(observer="minmax"), "u85", exported.graph_module)
    converted = program.reexport(program.quantize(exported, quantizer, given), (1, FRAMES, BINS))
    program.save(converted, folder / program.PROGRAM)
    lowered = to_tosa.lower(converted, schemes.operator_set("u85"), folder / "tosa.log")
    (folder / "graph.tosa").write_bytes(lowered.content)
    front_end.save(folder / "front_end.json")
    write_pieces(folder / "tokenizer.pieces", [BLANK, "A", "B", "C", "D"])
    write_json(folder / "quantize.json", {"subsampling_stages": 0})
    write_json(folder / "graph.json", {"status": "ok", "graph_sha256": sha256(folder / "graph.tosa"), **lowered.boundary})
    numbers = [*network.state_dict().values(), torch.tensor(-1.0)]
    return network, Graph(program.read(folder / program.PROGRAM), numbers), IntegerGraph(folder)


@pytest.fixture(scope="session")
def built(tmp_path_factory, front_end):
    """The network, its program and its integer graph."""
    return build(tmp_path_factory.mktemp("ladder"), front_end)


def windows(count: int) -> list[tuple[torch.Tensor]]:
    return [(torch.randn(1, FRAMES, BINS, generator=torch.Generator().manual_seed(seed)),) for seed in range(10, 10 + count)]


def test_in_floats_a_program_computes_what_was_trained(built):
    network, graph, _ = built
    assert graph.replaced == graph.stored > 4
    for (x,) in windows(2):
        torch.testing.assert_close(graph.run(x, in_floats=True)[0][0], network(x), atol=1e-5, rtol=1e-5)


def test_all_stored_numbers_of_a_model_as_it_was_trained_are_known(tmp_path):
    torch.manual_seed(0)
    shape, scheme = (1, 96, 80), Quant(scheme="a16w8", activation_bits=16)
    model = Conformer(Model(dim=16, layers=1, heads=2, subsampling_channels=[4, 4]), 80, OUTPUTS).eval().requires_grad_(False)
    exported = program.export(model.for_window(shape[1]), model, shape)
    quantizer = schemes.quantizer(scheme, Calib(observer="minmax"), "u85", exported.graph_module)
    program.save(program.reexport(program.quantize(exported, quantizer, [(torch.randn(shape),)]), shape), tmp_path / program.PROGRAM)
    graph = Graph(program.read(tmp_path / program.PROGRAM), trained.numbers(model, int(model.output_lengths(shape[1]))))
    assert graph.replaced == graph.stored > 20


def test_as_it_is_a_program_computes_what_pytorch_computes(built):
    _, graph, integer_graph = built
    exported = program.read(integer_graph.path.parent / program.PROGRAM).module(check_guards=False)
    for (x,) in windows(2):
        assert torch.equal(graph.run(x)[0][0], exported(x))


def test_the_operator_that_departs_is_named(built):
    _, graph, integer_graph = built
    tensors = depth.measure(graph, integer_graph, windows(4))
    assert all(one.counterpart for one in tensors if one.operator in ("conv2d", "silu", "neg", "add", "rsqrt"))
    found = depth.report(tensors, 1.0)
    departs = found["departs"]
    assert (departs["submodule"], departs["cause"]["operator"], departs["cause"]["submodule"]) == ("turn", "neg", "turn")
    assert departs["integer_graph_sqnr_db"] < departs["quantized_sqnr_db"] - 1.0
    worst, *others = found["operators"].items()
    assert worst[0] == "neg" and worst[1]["worst_differing"] > 0.3
    assert "mul" in dict(others) and all(one["worst_sqnr_db"] > 40 for _, one in others), "the product gives what PyTorch gives"


def test_without_an_integer_graph_the_program_alone_is_followed(built):
    _, graph, _ = built
    tensors = depth.measure(graph, None, windows(1))
    assert all(one.quantized_sqnr_db > 0 and one.integer_graph_sqnr_db is None for one in tensors)
    assert depth.report(tensors, 1.0)["departs"] is None


def test_figures_are_those_of_the_definition():
    wanted, found = torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([[1.0, 2.5], [3.0, -1.0]])
    against = Comparison()
    for x, y in zip(wanted, found, strict=True):
        against.add(x[None], y[None])
    assert against.sqnr_db == pytest.approx(10 * math.log10(15 / 0.25))
    assert against.cosine == pytest.approx(torch.nn.functional.cosine_similarity(wanted.flatten(), found.flatten(), dim=0).item())
    assert against.argmax_agreement == 1.0
    against.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert against.argmax_agreement == pytest.approx(2 / 3)
    assert decibels(1.0, 0.0) == MOST_DB and decibels(0.0, 1.0) == -MOST_DB, "every figure is finite"


def test_the_picture_shows_each_rung_and_where_the_graph_departs(built):
    _, graph, integer_graph = built
    rung = {"sqnr_db": 30.0, "cosine": 0.99, "argmax_agreement": 0.98, "wer": 0.1, "step": {"sqnr_db": 40.0}}
    rungs = {"float": {"wer": 0.09}, "exported": {**rung, "sqnr_db": 120.0}, "quantized": rung, "integer_graph": rung}
    content = {"rungs": rungs, "depth": depth.report(depth.measure(graph, integer_graph, windows(1)), 1.0)}
    text = "".join(ElementTree.fromstring(plot.svg(content)).itertext())
    told = table.markdown(content)
    assert "first at neg in turn" in told and "neg up to " in told and "| integer_graph | 30.0 " in told
    assert all(name in text for name in ("integer graph", "quantized program", "WER 9.00%", "departs: neg in turn", "feed_forward"))
