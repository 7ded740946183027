"""Evaluating and transcribing with what the quantize and lower stages make, on a tiny model."""

import csv
import json
import shutil
import sys

import pytest
import soundfile
from tiny_recognizer import noise, write_corpus, write_model

from earshot.evaluate import table_path
from earshot.lower.tosa_executor.executor import Executor
from earshot.stages import evaluate, lower, quantize, tosa, transcribe

WINDOW = ("window=4s", "window.seconds=2", "window.overlap_s=0.6")
SECONDS = [1.0, 2.0, 2.5, 5.3]


def command(stage, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [stage.__name__, *arguments])
        stage.main()


def build(folder, *schemes: tuple[str, str, str], **model):
    """A tiny model, its programs and variants for each scheme, family and target."""
    write_model(folder / "model", **model)
    for split in ("train", "dev", "test"):
        write_corpus(folder / "corpus", SECONDS, ["TURN ON THE LIGHT"] * len(SECONDS), split)
    given = (f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}", "calib.utterances=4", *WINDOW)
    for scheme, family, target in schemes:
        command(quantize, f"quant={scheme}", f"family={family}", f"out={folder / scheme}", *given)
        if family != "host":
            command(tosa, f"program_dir={folder / scheme}")
        command(lower, f"target={target}", f"program_dir={folder / scheme}", f"out={folder / target}")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Float on the host, int8 on an NPU."""
    return build(tmp_path_factory.mktemp("programs"), ("fp32", "host", "host"), ("int8_pc", "u85", "u85_256"))


@pytest.fixture(scope="module")
def built_by_8(tmp_path_factory):
    """Float on the host, of a model with an output every 80 ms."""
    return build(tmp_path_factory.mktemp("programs_by_8"), ("fp32", "host", "host"), subsampling_channels=[4, 4, 4])


def figures(folder, kind: str, subject: str, out, *more: str) -> dict:
    given = (f"kind={kind}", f"subject={folder / subject}", f"corpus_dir={folder / 'corpus'}", f"out={out}", *WINDOW)
    command(evaluate, *given, "evaluation.timing_utterances=3", *more)
    return json.loads(out.read_text())


def hypotheses(out, column: str = "hypothesis") -> dict[str, str]:
    return {row["id"]: row[column] for row in csv.DictReader(table_path(out).open())}


@pytest.mark.parametrize("model", ["built", "built_by_8"])
def test_the_float_program_says_what_the_checkpoint_says_in_every_form(model, request, tmp_path):
    built = request.getfixturevalue(model)
    for kind, subject in (("float", "model"), ("program", "fp32"), ("variant", "host")):
        figures(built, kind, subject, tmp_path / f"{kind}.json")
    words = hypotheses(tmp_path / "float.json")
    assert any(words.values())
    assert hypotheses(tmp_path / "program.json") == words
    assert hypotheses(tmp_path / "variant.json") == words


def test_a_host_variant_has_accuracy_times_and_memory(built, tmp_path):
    found = figures(built, "variant", "host", tmp_path / "host.json")
    assert set(found["accuracy"]) == {"host_pte"}
    host = found["host"]
    assert host["timed_utterances"] == 3
    assert 0 < host["rtf_1_thread"] < host["rtf_1_thread_with_front_end"]
    assert host["rtf_all_threads"] > 0
    assert 0 < host["latency_ms_p50"] <= host["latency_ms_p95"] < host["utterance_ms_p95"]
    assert host["peak_rss_mib"] > 100


@pytest.fixture(scope="module")
def everywhere(built):
    """The evaluation of the int8 program and its integer graph on all utterances."""
    figures(built, "program", "int8_pc", built / "all.json")
    return built / "all.json"


def test_a_program_of_an_npu_is_evaluated_by_pytorch_and_as_its_integer_graph(everywhere):
    found = json.loads(everywhere.read_text())
    assert set(found["accuracy"]) == {"quantized", "integer_graph"}
    assert found["accuracy"]["integer_graph"]["utterances"] == found["accuracy"]["quantized"]["utterances"] == len(SECONDS)
    assert "host" not in found
    words, of_graph = hypotheses(everywhere), hypotheses(everywhere, "hypothesis_integer_graph")
    assert any(words.values()) and any(of_graph.values())


def test_several_processes_say_what_one_says(built, everywhere, tmp_path):
    found = figures(built, "program", "int8_pc", tmp_path / "s.json", "evaluation.jobs=2")
    assert found["accuracy"] == json.loads(everywhere.read_text())["accuracy"]
    for column in ("hypothesis", "hypothesis_integer_graph"):
        assert hypotheses(tmp_path / "s.json", column) == hypotheses(everywhere, column)


@pytest.mark.parametrize(("utterances", "windows"), [(0, 0), (3, 4), (100, 8)])
def test_the_first_utterances_are_compared_with_the_reference_model(built, tmp_path, utterances, windows):
    found = figures(built, "program", "int8_pc", tmp_path / "x.json", f"evaluation.reference_utterances={utterances}")
    assert found["reference_windows"] == windows


def test_a_graph_that_differs_from_the_reference_model_stops_the_evaluation(built, tmp_path, monkeypatch):
    """As an error in the executor would: its results are shifted by one on all windows but the first."""
    run, calls = Executor.run, []

    def wrong(self, integers, keep=()):
        calls.append(None)
        return {name: found ^ (len(calls) > 1) for name, found in run(self, integers, keep).items()}

    monkeypatch.setattr(Executor, "run", wrong)
    with pytest.raises(SystemExit, match=r"utterance test-1, window 1: .*graph\.tosa: .* differ in \d+ of 490 values; run the tosa step"):
        figures(built, "program", "int8_pc", tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_a_variant_of_an_npu_is_sent_to_its_program(built, tmp_path):
    with pytest.raises(SystemExit, match=r"kind=program"):
        figures(built, "variant", "u85_256", tmp_path / "x.json")


def test_the_graph_of_an_earlier_program_is_refused(built, tmp_path):
    shutil.copytree(built / "int8_pc", tmp_path / "int8_pc")
    report = json.loads((tmp_path / "int8_pc" / "quantize.json").read_text())
    (tmp_path / "int8_pc" / "quantize.json").write_text(json.dumps({**report, "program_sha256": "0" * 64}))
    with pytest.raises(SystemExit, match=r"graph\.json: .* run the tosa step again"):
        figures(built, "program", tmp_path / "int8_pc", tmp_path / "x.json")


def test_another_window_than_the_programs_is_refused(built, tmp_path):
    with pytest.raises(SystemExit, match=r"takes windows of 2 s"):
        figures(built, "program", "int8_pc", tmp_path / "x.json", "window.seconds=4")
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("program", ["model/model.safetensors", "fp32/quantized.pt2", "host/model.pte", "host", "u85_256/model.pte"])
def test_transcribe_takes_every_kind_of_program(built, tmp_path, capsys, program):
    soundfile.write(tmp_path / "a.wav", noise(1.9, 7), 16_000)
    command(transcribe, f"program={built / program}", f"audio={tmp_path / 'a.wav'}")
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1
    assert told.out.strip()
    assert ("integer graph" in told.err) == ("u85" in program)
