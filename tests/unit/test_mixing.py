"""Mixtures in PyTorch: they compute what the quantized program computes, and the part that is made to hurt comes out on top."""

from __future__ import annotations

import csv
import math
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from safetensors.torch import load_file
from stage_command import fails, run
from tiny_recognizer import PIECES, noise, write_corpus, write_model
from variants_on_disk import content

from earshot import windows
from earshot.config import Calib, Part, Quant, Window
from earshot.config.search import Compared
from earshot.files import read_json, write_json
from earshot.model import checkpoint
from earshot.quantize import observing, program, schemes, sensitivity
from earshot.quantize.laboratory import Laboratory
from earshot.quantize.mixing import FLOAT, MixedNetwork
from earshot.search import candidates

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
    del metadata[checkpoint.DIGEST]
    checkpoint.write_weights(weights, tensors, metadata)
    return folder


@pytest.fixture(scope="module")
def bench(folder):
    """The exported network of the model, inputs that it is calibrated on, and the mixed network of both schemes."""
    recognizer = checkpoint.load(folder / "model")
    exported = program.export(recognizer.model.for_window(200), recognizer.model, (1, 200, 80))
    inputs = [(windows.fit_window(recognizer.front_end(noise(2.0, i)), recognizer.front_end, 200),) for i in range(3)]
    prepared = {
        name: observing.observed(exported, schemes.quantizer(quant, Calib(), "u85", exported.graph_module), inputs)
        for name, quant in SCHEMES.items()
    }
    return exported, inputs, MixedNetwork(prepared, floats={})


def test_in_floats_it_is_the_network_and_as_a_mixture_its_quantized_program(bench):
    exported, inputs, network = bench
    (x,) = inputs[0]
    quant = Quant(scheme="mixed", parts=[Part(modules="blocks.0.self_attention", weight_bits=4)])
    converted = program.quantize(exported, schemes.quantizer(quant, Calib(), "u85", exported.graph_module), inputs)
    with torch.no_grad():
        in_floats, quantized = exported.module(check_guards=False)(x), converted(x)
    network.mix(lambda operator: FLOAT)
    assert torch.allclose(network(x), in_floats, atol=1e-5)
    network.mix(lambda operator: "a8w4" if operator.part == "blocks.0.self_attention" else "int8_pc")
    assert torch.equal(network(x), quantized)
    network.mix(lambda operator: "int8_pc")
    assert not torch.equal(network(x), quantized)


def test_each_scheme_has_the_weights_that_its_program_has(folder):
    """Other ones for 4 bits than for 8, and in floats those that were trained."""
    schemes_ = {name: {"scheme": name, "weight_bits": quant.weight_bits} for name, quant in SCHEMES.items()}
    calib, window = Calib(utterances=3, weights="compensated"), Window(seconds=2.0, overlap_s=0.5)
    folders = {"model_dir": str(folder / "model"), "corpus_dir": str(folder / "corpus")}
    network = Laboratory(Compared(schemes=schemes_, calib=calib, window=window, **folders)).network(SCHEMES, calib, "")
    recognizer = checkpoint.load(folder / "model")
    x = windows.fit_window(recognizer.front_end(noise(2.0, 5)), recognizer.front_end, 200)
    network.mix(lambda operator: FLOAT)
    with torch.no_grad():
        assert torch.allclose(network(x), recognizer.model(x), atol=1e-4)
    for scheme in SCHEMES:
        out = folder / f"compensated-{scheme}"
        words = f"quant={scheme}", "calib.utterances=3", "calib.weights=compensated", "family=u85"
        run("quantize", *words, *given(folder)[-2:], f"out={out}", *WINDOW)
        network.mix(sensitivity.uniform(scheme))
        assert torch.equal(network(x)[0], program.load(out)(x[0])), scheme


@pytest.fixture(scope="module")
def table(folder):
    """The output folder of the sensitivity stage."""
    out = folder / "sensitivity"
    run("sensitivity", BOTH, *given(folder), f"out={out}", *WINDOW)
    return out


BOTH = "schemes={int8_pc: {scheme: int8_pc}, a8w4: {scheme: a8w4, weight_bits: 4}}"


def given(folder) -> list[str]:
    words = ["family=u85", "calib.utterances=3", "sensitivity.utterances=2", "sensitivity.dev_utterances=2"]
    return [*words, f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}"]


def test_the_part_that_is_made_to_hurt_is_the_most_sensitive(table):
    written = read_json(table / "sensitivity.json")
    of_parts = [row for row in written["rows"] if (row["scheme"], row["by"]) == ("a8w4", "module")]
    alone = {row["unit"]: row for row in of_parts if row["case"] == "alone"}
    spared = {row["unit"]: row["noise"] for row in of_parts if row["case"] == "spared"}
    worst = "blocks.0.feed_forward2"
    assert max(alone, key=lambda unit: alone[unit]["noise"]) == worst
    assert min(spared, key=spared.get) == worst, "to leave it alone gives back most"
    assert spared[worst] < written["whole"]["a8w4"]["noise"]
    assert alone[worst]["weights"] > 0 and alone[worst]["sqnr_db"] == pytest.approx(-10 * math.log10(alone[worst]["noise"]))
    assert all(row["wer"] is not None for row in written["rows"])


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
    assert named in fails("sensitivity", *words, *given(folder), f"out={folder / 'no'}", *WINDOW)


def test_a_joint_search_compares_mixtures_and_calibrations_and_predicts_what_they_cost(folder, table):
    """Of the scheme that hurts, the part that hurts is taken last."""

    def uniform(scheme: str, flash_kib: float) -> str:
        made = content(f"{scheme}-hist-2s", "u85_256", 0.095)
        made["npu"]["flash_kib"], made["choices"]["calib"] = flash_kib, "hist"
        write_json(folder / f"{scheme}.json", made)
        return str(folder / f"{scheme}.json")

    calibrations = "calibrations={hist: {utterances: 3}, minmax: {utterances: 3, observer: minmax}}"
    files = [f"table={table}/sensitivity.json", f"uniform=[{uniform('int8_pc', 1000.0)},{uniform('a8w4', 600.0)}]"]
    words = ["search=joint", "search.trials=12", "search.dev_utterances=2", BOTH, calibrations, *files]
    run("search", *words, *given(folder), f"out={folder}/candidates.json", *WINDOW)
    written = read_json(folder / "candidates.json")
    assert written["path"][-1] == "blocks.0.feed_forward2"
    found = candidates.read(folder / "candidates.json")
    by_id = {one.proposal.id: one for one in found}
    assert by_id["a8w4-hist"].predicted["flash_kib"] == pytest.approx(600)
    assert all(600 <= one.predicted["flash_kib"] <= 1000.001 and one.wer_increase is not None for one in found)
    assert {one.proposal.calib for one in found} <= {"hist", "minmax"} and any(one.proposal.parts for one in found)
    assert written["compared"] <= 12 and (folder / "state" / "study.db").is_file()


def test_outputs_fit_the_pieces(bench):
    _, inputs, network = bench
    assert network(inputs[0][0]).shape == (1, 49, len(PIECES))
