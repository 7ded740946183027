"""Mixtures in PyTorch: they compute what the quantized program computes, and the part that is made to hurt comes out on top."""

from __future__ import annotations

import csv
import math
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from safetensors.torch import load_file, save_file
from stage_command import fails, run
from tiny_recognizer import PIECES, noise, write_corpus, write_model

from earshot.config import Calib, Part, Quant
from earshot.files import read_json
from earshot.model import checkpoint
from earshot.quantize import calibrate, program, schemes
from earshot.quantize.mixing import FLOAT, MixedNetwork, observe

SECONDS = [1.0, 1.5, 2.0]
SCHEMES = {"int8_pc": Quant(scheme="int8_pc"), "a8w4": Quant(scheme="a8w4", weight_bits=4)}
WINDOW = ("window=4s", "window.seconds=2", "window.overlap_s=0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, one of whose feed-forwards has a weight that leaves no bits to the others of its channel, and a corpus."""
    folder = tmp_path_factory.mktemp("mixing")
    write_model(folder / "model")
    for split in ("train", "dev", "test"):
        write_corpus(folder / "corpus", SECONDS, ["GO", "TURN ON", "STOP"], split)
    weights = folder / "model" / "model.safetensors"
    tensors = load_file(weights)
    hurt = {name: tensors[f"blocks.0.feed_forward2.{name}"] for name in ("widen.bias", "narrow.weight")}
    hurt["widen.bias"][0] = -30.0  # the first hidden unit is always zero, so that what it weighs says nothing, but takes all bits
    hurt["narrow.weight"] *= 6
    hurt["narrow.weight"][:, 0] = torch.tensor([100.0, -100.0]).repeat(8)
    _, metadata = checkpoint.read_weights(weights)
    save_file(tensors, weights, metadata=metadata)
    return folder


@pytest.fixture(scope="module")
def bench(folder):
    """The exported network of the model, inputs that it is calibrated on, and the mixed network of both schemes."""
    recognizer = checkpoint.load(folder / "model")
    exported = program.export(recognizer.model.for_window(200), recognizer.model, (1, 200, 80))
    inputs = [(calibrate.fit_window(recognizer.front_end(noise(2.0, i)), recognizer.front_end, 200),) for i in range(3)]
    prepared = {
        name: observe(exported, schemes.quantizer(quant, Calib(), "u85", exported.graph_module), inputs) for name, quant in SCHEMES.items()
    }
    return exported, inputs, MixedNetwork(prepared)


def test_in_floats_it_is_the_network_and_in_a_scheme_its_quantized_program(bench):
    exported, inputs, network = bench
    (x,) = inputs[0]
    network.mix(lambda operator: FLOAT)
    with torch.no_grad():
        assert torch.allclose(network(x), exported.module(check_guards=False)(x), atol=1e-5)
    for name, quant in SCHEMES.items():
        converted = program.quantize(exported, schemes.quantizer(quant, Calib(), "u85", exported.graph_module), inputs)
        network.mix(lambda operator, name=name: name)
        with torch.no_grad():
            assert torch.equal(network(x), converted(x)), name


def test_a_mixture_is_the_program_of_its_parts(bench):
    exported, inputs, network = bench
    (x,) = inputs[0]
    quant = Quant(scheme="mixed", parts=[Part(modules="blocks.0.self_attention", weight_bits=4)])
    converted = program.quantize(exported, schemes.quantizer(quant, Calib(), "u85", exported.graph_module), inputs)
    network.mix(lambda operator: "a8w4" if operator.part == "blocks.0.self_attention" else "int8_pc")
    with torch.no_grad():
        wanted = converted(x)
    assert torch.equal(network(x), wanted)
    network.mix(lambda operator: "int8_pc")
    assert not torch.equal(network(x), wanted)


@pytest.fixture(scope="module")
def table(folder):
    """The output folder of the sensitivity stage."""
    out = folder / "sensitivity"
    words = ["schemes={a8w4: {scheme: a8w4, weight_bits: 4}}", "family=u85", "calib.utterances=3", "sensitivity.utterances=2"]
    words += ["sensitivity.dev_utterances=2", f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}", f"out={out}"]
    run("sensitivity", *words, *WINDOW)
    return out


def test_the_part_that_is_made_to_hurt_is_the_most_sensitive(table):
    content = read_json(table / "sensitivity.json")
    alone = {row["unit"]: row for row in content["rows"] if (row["by"], row["case"]) == ("module", "alone")}
    spared = {row["unit"]: row["noise"] for row in content["rows"] if (row["by"], row["case"]) == ("module", "spared")}
    worst = "blocks.0.feed_forward2"
    assert max(alone, key=lambda unit: alone[unit]["noise"]) == worst
    assert min(spared, key=spared.get) == worst, "to leave it alone gives back most"
    assert spared[worst] < content["whole"]["a8w4"]["noise"]
    assert alone[worst]["weights"] > 0 and alone[worst]["sqnr_db"] == pytest.approx(-10 * math.log10(alone[worst]["noise"]))
    assert alone["output"]["wer"] is not None


def test_the_table_is_there_for_people_too(table):
    with (table / "sensitivity.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {"conv2d", "blocks.0.self_attention"} <= {row["unit"] for row in rows}
    assert {row["case"] for row in rows} == {"alone", "spared"}
    text = "".join(ElementTree.fromstring((table / "sensitivity.svg").read_text()).itertext())
    assert "blocks.0.feed_forward2" in text and "a8w4" in text


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["schemes={fp32: {scheme: fp32, quantize: false}}"], "none that quantizes"),
        (["schemes={a: {scheme: a, weight_bits: 5}}"], "weight_bits=5"),
        (["schemes={a: {scheme: a, wieght_bits: 8}}"], "wieght_bits"),
        (["schemes=[a]"], "give a mapping"),
    ],
)
def test_what_cannot_be_measured_is_refused(folder, words, named):
    given = [f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}", f"out={folder / 'no'}", "family=u85"]
    assert named in fails("sensitivity", *words, *given, *WINDOW)


def test_outputs_fit_the_pieces(bench):
    _, inputs, network = bench
    assert network(inputs[0][0]).shape == (1, 49, len(PIECES))
