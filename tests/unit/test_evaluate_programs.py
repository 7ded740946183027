"""Evaluating and transcribing with what the quantize and lower stages make, on a tiny model: host programs here."""

import csv
import json
import sys

import pytest
import soundfile
from tiny_recognizer import noise, write_corpus, write_model

from earshot.evaluate import table_path
from earshot.stages import evaluate, lower, quantize, transcribe

WINDOW = ("window=4s", "window.seconds=2", "window.overlap_s=0.6")
SECONDS = [1.0, 2.0, 2.5, 5.3]


def command(stage, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [stage.__name__, *arguments])
        stage.main()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A tiny model, its quantized and float programs for the host, and their variants."""
    folder = tmp_path_factory.mktemp("programs")
    write_model(folder / "model")
    for split in ("train", "dev", "test"):
        write_corpus(folder / "corpus", SECONDS, ["TURN ON THE LIGHT"] * len(SECONDS), split)
    for scheme in ("int8_pc", "fp32"):
        given = (f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}", "calib.utterances=4", *WINDOW)
        command(quantize, f"quant={scheme}", "family=host", f"out={folder / scheme}", *given)
        command(lower, "target=host", f"program_dir={folder / scheme}", f"out={folder / scheme}_host")
    return folder


def figures(folder, kind: str, subject: str, out, *more: str) -> dict:
    given = (f"kind={kind}", f"subject={folder / subject}", f"corpus_dir={folder / 'corpus'}", f"out={out}", *WINDOW)
    command(evaluate, *given, "evaluation.timing_utterances=3", *more)
    return json.loads(out.read_text())


def hypotheses(out) -> dict[str, str]:
    return {row["id"]: row["hypothesis"] for row in csv.DictReader(table_path(out).open())}


def test_the_float_program_says_what_the_checkpoint_says_in_every_form(built, tmp_path):
    for kind, subject in (("float", "model"), ("program", "fp32"), ("variant", "fp32_host")):
        figures(built, kind, subject, tmp_path / f"{kind}.json")
    words = hypotheses(tmp_path / "float.json")
    assert any(words.values())
    assert hypotheses(tmp_path / "program.json") == words
    assert hypotheses(tmp_path / "variant.json") == words


def test_a_host_variant_has_accuracy_times_and_memory(built, tmp_path):
    found = figures(built, "variant", "int8_pc_host", tmp_path / "host.json")
    assert set(found["accuracy"]) == {"host_pte"}
    host = found["host"]
    assert host["timed_utterances"] == 3
    assert 0 < host["rtf_1_thread"] < host["rtf_1_thread_with_front_end"]
    assert host["rtf_all_threads"] > 0
    assert 0 < host["latency_ms_p50"] <= host["latency_ms_p95"] < host["utterance_ms_p95"]
    assert host["peak_rss_mib"] > 100


def test_the_quantized_program_and_its_pte_are_evaluated_alike(built, tmp_path):
    program = figures(built, "program", "int8_pc", tmp_path / "program.json")
    figures(built, "variant", "int8_pc_host", tmp_path / "variant.json")
    assert set(program["accuracy"]) == {"quantized"}
    assert hypotheses(tmp_path / "program.json").keys() == hypotheses(tmp_path / "variant.json").keys()


def test_another_window_than_the_programs_is_refused(built, tmp_path):
    with pytest.raises(SystemExit, match=r"takes windows of 2 s"):
        figures(built, "program", "int8_pc", tmp_path / "x.json", "window.seconds=4")
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("program", ["model/model.safetensors", "fp32/quantized.pt2", "fp32_host/model.pte", "fp32_host"])
def test_transcribe_takes_every_kind_of_program(built, tmp_path, capsys, program):
    soundfile.write(tmp_path / "a.wav", noise(1.9, 7), 16_000)
    command(transcribe, f"program={built / program}", f"audio={tmp_path / 'a.wav'}")
    assert capsys.readouterr().out.strip()
