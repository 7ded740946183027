"""The lower stage on a tiny model for this machine: its runtime computes what the program says, in every type."""

from __future__ import annotations

import json

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from lowering import WINDOW, check_damaged, features, sqnr_db, write_small
from stage_command import run
from tiny_recognizer import PIECES

from earshot.config import Part, Quant
from earshot.lower import edge, xnnpack
from earshot.lower.xnnpack import HostProgram
from earshot.quantize import program, schemes

pytestmark = pytest.mark.xdist_group("lower")


def test_the_runtime_computes_what_the_quantized_program_says(programs, host):
    quantized, pte = program.load(programs / "host"), HostProgram(host)
    x = features(pte.front_end)
    logits = pte(x)
    assert logits.shape == (49, len(PIECES)) and pte.window_frames == 200
    assert sqnr_db(quantized(x), logits) > 20
    pte(torch.zeros_like(x))
    assert torch.equal(pte(x), logits)
    assert "npu" not in json.loads((host / "lower.json").read_text())


def test_the_passes_of_xnnpack_that_are_left_out_would_find_nothing(programs, host, tmp_path):
    given = (f"model_dir={programs / 'model'}", f"corpus_dir={programs / 'corpus'}", *WINDOW, "family=host")
    run("quantize", "quant=fp32", *given, f"out={tmp_path / 'float'}")
    for directory in (programs / "host", tmp_path / "float"):
        exported = program.read(directory / program.PROGRAM)
        assert xnnpack.lower(exported).pte == edge.finish(edge.lower(exported, XnnpackPartitioner()), quantized=False).pte


HOST_SCHEMES = {
    "dynamic": Quant(scheme="dynamic_int8", dynamic=True),
    "mixed": Quant(scheme="mixed_host", parts=[Part(modules="out", quantize=False), Part(modules="hidden", dynamic=True)]),
}


@pytest.mark.parametrize("name", HOST_SCHEMES)
def test_the_host_takes_dynamic_ranges_and_floats_in_parts(programs, tmp_path, name):
    program_dir = write_small(programs, tmp_path / name, HOST_SCHEMES[name], "host")
    run("lower", "target=host", f"program_dir={program_dir}", f"out={tmp_path / 'variant'}")
    quantized, pte = program.load(program_dir), HostProgram(tmp_path / "variant")
    x = features(pte.front_end)
    assert sqnr_db(quantized(x), pte(x)) > 25
    stored = schemes.by_module(program.read(program_dir / program.PROGRAM).graph_module)
    assert "dynamic" in stored["hidden"]["activation"] and ("dynamic" in stored["out"]["activation"]) == (name == "dynamic")
    assert stored["out"]["weight"].startswith("float32" if name == "mixed" else "int8 per channel")


def test_the_host_takes_floats_of_16_bits(programs, tmp_path):
    given = (f"model_dir={programs / 'model'}", f"corpus_dir={programs / 'corpus'}", *WINDOW, "family=host")
    for name in ("fp32", "fp16", "bf16"):
        run("quantize", f"quant={name}", *given, f"out={tmp_path / name}")
        run("lower", "target=host", f"program_dir={tmp_path / name}", f"out={tmp_path / name / 'variant'}")
    floats, half, brain = (HostProgram(tmp_path / name / "variant") for name in ("fp32", "fp16", "bf16"))
    x = features(floats.front_end)
    assert 90 > sqnr_db(floats(x), half(x)) > sqnr_db(floats(x), brain(x)) > 25
    sizes = [(tmp_path / name / "variant" / "model.pte").stat().st_size for name in ("fp32", "fp16", "bf16")]
    assert max(sizes[1:]) < sizes[0]
    stored = json.loads((tmp_path / "fp16" / "quantize.json").read_text())
    assert stored["calibration"] is None and "float16" in stored["modules"]["blocks.0.feed_forward1.widen"]["weight"]


def test_a_damaged_program_of_a_variant_is_refused_by_its_file(host, tmp_path):
    check_damaged(host, "model.pte", HostProgram, tmp_path)
