"""The last layers in floats: the NPU computes the others, the CPU these, and what is evaluated is both."""

import json
import pickle

import pytest
import torch
from lowering import check_damaged, features, sqnr_db, write_small
from stage_command import run
from test_lower import lowered_at_once
from tiny_recognizer import PIECES

from earshot.config import Part, Quant
from earshot.lower.float_tail import TAIL
from earshot.lower.tosa import IntegerGraph
from earshot.quantize import program

pytestmark = pytest.mark.xdist_group("lower")


@pytest.fixture(scope="module")
def with_tail(programs):
    """A program directory whose output layer is in floats."""
    quant = Quant(scheme="mixed", parts=[Part(modules="out", quantize=False)])
    out = write_small(programs, programs / "with_tail", quant, "u85")
    run("tosa", f"program_dir={out}")
    return out


@pytest.fixture(scope="module")
def variant(with_tail, programs):
    run("lower", "target=u85_1024", f"program_dir={with_tail}", f"out={programs / 'variant_with_tail'}")
    return programs / "variant_with_tail"


def test_the_words_are_of_the_integers_and_the_floats_behind_them(with_tail, variant):
    quantized, graph = program.load(with_tail), IntegerGraph(variant)
    x = features(graph.front_end)
    logits = graph(x)
    assert logits.shape == (49, len(PIECES)) and graph.boundary["output"]["shape"] == [1, 49, 16]
    assert sqnr_db(quantized(x), logits) > 30
    assert len(set(logits.flatten().tolist())) > 256, "floats, not the steps of an integer"
    assert torch.equal(pickle.loads(pickle.dumps(graph))(x), logits)


def test_the_report_says_what_the_cpu_computes(variant):
    npu = json.loads((variant / "lower.json").read_text())["npu"]
    assert npu["operators_cpu"] == {"addmm": 1, "dequantize_per_tensor": 1, "quantize_per_tensor": 1, "view_copy": 1}
    assert npu["macs_cpu"] == 49 * 16 * len(PIECES)
    tail = json.loads((variant / "graph.json").read_text())["float_tail"]
    assert tail["weights_kib"] == 4 * 17 * len(PIECES) / 1024 < npu["flash_kib"]
    assert f"{npu['macs_cpu']:,} multiplications in floats" in (variant / "README.md").read_text()


def test_the_program_is_the_one_that_executorch_makes_but_for_the_weights_it_would_transpose_in_each_run(with_tail, variant, tmp_path):
    graph, pte = lowered_at_once(with_tail, "u85_1024", tmp_path)
    assert (variant / "graph.tosa").read_bytes() == graph
    assert b"aten::permute_copy" in pte and b"aten::permute_copy" not in (variant / "model.pte").read_bytes()


def test_a_damaged_tail_is_refused_by_its_file(variant, tmp_path):
    check_damaged(variant, TAIL, IntegerGraph, tmp_path)
