"""Quantization-aware training of a tiny model: what comes out, that it helps, that it goes on where it was stopped, what is refused."""

import copy
import csv
import itertools
import json

import pytest
import torch
from stage_command import fails, run
from tiny_recognizer import write_corpus, write_model

from earshot import windows
from earshot.config import Calib, Qat, Quant, QuantizeStage, Window
from earshot.model import checkpoint
from earshot.quantize import calibrate, fake, program, qat, qat_program
from earshot.stages.quantize import network

SECONDS = [0.7, 1.0, 1.5, 2.0, 2.5, 3.0]
FRAMES = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qat")
    write_model(folder / "model")
    for split in ("train", "dev", "test"):
        write_corpus(folder / "corpus", SECONDS, ["GO"] * len(SECONDS), split)
    return folder


def given(folder) -> tuple[str, ...]:
    return (f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}", "family=u85", "calib=minmax64", "calib.utterances=2",
            "window.seconds=2", "window.overlap_s=0.5")  # fmt: skip


def test_the_program_has_weights_of_four_bits_a_scale_for_each_channel_and_says_how_it_was_trained(folder, tmp_path):
    settings = ("quant.qat.steps=4", "quant.qat.period=2", "quant.qat.batch=2", "quant.qat.dev_utterances=2")
    run("quantize", "quant=a8w4_qat", *settings, *given(folder), f"out={tmp_path}")
    report = json.loads((tmp_path / "quantize.json").read_text())
    stored = report["modules"]
    assert stored["blocks.0.feed_forward1.widen"] == {"weight": "int8 per channel [-7, 7]", "activation": "int8 per tensor [-128, 127]"}
    assert all("per channel [-7, 7]" in kept["weight"] for kept in stored.values())
    assert report["training"]["steps"] == 4 and report["training"]["utterances"] == len(SECONDS)
    integers = [value for value in program.read(tmp_path / "quantized.pt2").state_dict.values() if value.dtype == torch.int8]
    assert integers and max(int(value.abs().max()) for value in integers) == 7
    with open(tmp_path / "qat.csv", newline="") as curves:
        rows = list(csv.DictReader(curves))
    assert [row["step"] for row in rows] == ["0", "2", "4"]
    assert all(float(row["dev_loss"]) > 0 and float(row["dev_wer"]) >= 0 for row in rows)


@pytest.fixture(scope="module")
def made(folder):
    """The tiny model with weights of four bits, before training: configuration, model, and the two rounded networks."""
    quant, window = Quant(scheme="a8w4_qat", weight_bits=4, qat=Qat(batch=2)), Window(seconds=2.0, overlap_s=0.5)
    directories = {"model_dir": str(folder / "model"), "corpus_dir": str(folder / "corpus"), "out": str(folder / "out")}
    cfg = QuantizeStage(quant=quant, calib=Calib(observer="minmax"), window=window, **directories)
    recognizer = checkpoint.load(folder / "model")
    written = network(cfg, recognizer, FRAMES, None)
    exported = program.export(written, recognizer.model, (1, FRAMES, 80))
    return cfg, recognizer, *qat_program.graphs(cfg, recognizer, written, exported)


def training(made, state, **config):
    """A training of copies of the networks: the rows of its curves as they are made, and the network with the averaged weights."""
    cfg, recognizer, *graphs = made
    taught, averaged = (copy.deepcopy(graph) for graph in graphs)
    front_end = recognizer.front_end
    speech = qat.Speech(calibrate.training_split(cfg.corpus_dir), front_end, FRAMES, 0)
    calibration = list(calibrate.inputs(speech.utterances[:2], front_end, FRAMES))
    layout = windows.layout(FRAMES, cfg.window.overlap_s, front_end, recognizer.model.grid)
    dev = qat.Dev.of(recognizer.model, qat_program.dev_utterances(cfg)[:3], layout, front_end, recognizer.pieces)
    state.mkdir(exist_ok=True)
    return qat.Training(Qat(batch=2, **config), recognizer.model, taught, averaged, state).fit(speech, calibration, dev), averaged


def test_the_trained_network_says_more_nearly_what_the_float_one_says(made, tmp_path):
    rows = list(training(made, tmp_path / "state", steps=60, period=60, lr=2e-3, ema_decay=0.9)[0])
    assert rows[-1]["dev_loss"] < 0.7 * rows[0]["dev_loss"]


def test_what_is_kept_is_the_best_of_all_rows(made, tmp_path):
    """At such a rate the network is soon lost: what it was before training is the best."""
    rows, averaged = training(made, tmp_path / "state", steps=4, period=2, lr=1.0, warmup=0.0, freeze_after=0.0, ema_decay=0.0)
    first = next(rows)
    before = copy.deepcopy(averaged.state_dict())
    rest = list(rows)
    assert all(row["dev_loss"] > first["dev_loss"] for row in rest)
    kept = averaged.state_dict()
    for name in before:
        torch.testing.assert_close(kept[name], before[name], rtol=1e-3, atol=1e-3, msg=name)  # scales of weights pass through lost ones


def test_an_interrupted_training_ends_as_one_in_a_piece(made, tmp_path):
    config = {"steps": 6, "period": 2}
    rows, whole = training(made, tmp_path / "whole", **config)
    rows = list(rows)
    first = list(itertools.islice(training(made, tmp_path / "cut", **config)[0], 2))  # stopped at step 2, the state of which is kept
    rest, resumed = training(made, tmp_path / "cut", **config)
    rest = list(rest)
    assert [row["step"] for row in rest] == [4, 6]
    assert [row["dev_loss"] for row in [*first, *rest]] == [row["dev_loss"] for row in rows]
    converted = [fake.convert(graph).state_dict() for graph in (whole, resumed)]
    assert converted[0].keys() == converted[1].keys()
    assert all(torch.equal(converted[0][name], converted[1][name]) for name in converted[0])


def test_windows_are_parts_of_utterances_in_another_order_each_time(folder):
    utterances, front_end = calibrate.training_split(folder / "corpus"), checkpoint.load(folder / "model").front_end
    speech = qat.Speech(utterances, front_end, FRAMES, seed=0)
    x_btf, frames_b = speech.batch(0, len(SECONDS))
    assert x_btf.shape == (len(SECONDS), FRAMES, 80)
    assert sorted(frames_b.tolist()) == sorted(min(FRAMES, front_end.frames(round(16000 * seconds))) for seconds in SECONDS)
    shortest = int(frames_b.argmin())
    assert torch.equal(x_btf[shortest, frames_b[shortest] :], front_end.silence().expand(FRAMES - int(frames_b[shortest]), -1))
    assert torch.equal(speech.batch(0, len(SECONDS))[0], x_btf)
    again, _ = speech.batch(len(SECONDS), len(SECONDS))
    assert not torch.equal(again, x_btf)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("quant=int8_pc_qat", "family=host"), ("int8_pc_qat", "family host", "u85")),
        (("quant=int8_pc_qat", "family=u85", "form.npu_form=false"), ("npu_form", "quant.qat=null")),
        (("quant=int8_pc_qat", "family=u85", "window=2s_cached"), ("left_context_s", "quant.qat=null")),
        (("quant=int8_pc_qat", "family=u85", "quant.qat.batch=0"), ("Qat.batch", "at least 1")),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(folder, tmp_path, arguments, named):
    directories = (f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}", f"out={tmp_path / 'out'}")
    message = fails("quantize", *directories, *arguments)
    assert all(word in message for word in named)
    assert not (tmp_path / "out").exists()
