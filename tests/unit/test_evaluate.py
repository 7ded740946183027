"""The evaluate stage through its command line: figures, table, samples, processes, failed variants and what it refuses."""

import csv
import json
import sys

import jiwer
import pytest
import torch
from tiny_recognizer import write_corpus, write_model

from earshot import utterance_lines, utterance_table
from earshot.errors import ArtifactError
from earshot.evaluate import Stream, sample
from earshot.files import write_json
from earshot.model import checkpoint
from earshot.recognizers import FloatProgram, windowed
from earshot.stages import evaluate as stage

SECONDS = [0.4, 1.0, 1.9, 2.0, 2.1, 3.3, 7.0, 0.05]
TEXTS = ["STOP", "TURN ON THE LIGHT", "GO", "TURN OFF THE LIGHTS", "TURN ON", "STOP STOP", "TURN ON THE LIGHT AND GO", "GO"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return write_model(folder / "model"), write_corpus(folder / "corpus", SECONDS, TEXTS)


def run(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    stage.main()


def evaluate(monkeypatch, tiny, out, *more: str) -> dict:
    model, corpus = tiny
    run(monkeypatch, "kind=float", f"subject={model}", f"corpus_dir={corpus}", f"out={out}", "window=4s", "window.seconds=2", *more)
    return json.loads(out.read_text())


def test_a_cache_of_left_context_gives_other_words_than_windows_alone(monkeypatch, tiny, tmp_path):
    alone = evaluate(monkeypatch, tiny, tmp_path / "alone.json")
    cached = evaluate(monkeypatch, tiny, tmp_path / "cached.json", "window.left_context_s=1")
    assert cached["accuracy"]["float_full"] == alone["accuracy"]["float_full"]
    assert cached["accuracy"]["float"] != alone["accuracy"]["float"]


def test_float_model_over_windows_and_whole(monkeypatch, tiny, tmp_path):
    out = tmp_path / "key=value, (odd) näme" / "float.json"
    found = evaluate(monkeypatch, tiny, out)
    assert found["status"] == "ok"
    assert found["window_s"] == 2
    assert found["peak_rss_mib"] > 50
    table = list(csv.DictReader(utterance_table.beside(out).open()))
    assert [row["id"] for row in table] != [f"test-{i}" for i in range(len(SECONDS))]
    errors = [int(row["substitutions"]) + int(row["deletions"]) + int(row["insertions"]) for row in table]
    assert errors == sorted(errors, reverse=True)
    assert {row["reference"] for row in table} == set(TEXTS)
    for form, column in (("float", "hypothesis"), ("float_full", "hypothesis_float_full")):
        counted = jiwer.process_words([row["reference"] for row in table], [row[column] for row in table])
        accuracy = found["accuracy"][form]
        assert accuracy["wer"] == pytest.approx(counted.wer)
        assert (accuracy["substitutions"], accuracy["deletions"], accuracy["insertions"]) == (
            counted.substitutions,
            counted.deletions,
            counted.insertions,
        )
        assert accuracy["words"] == sum(len(text.split()) for text in TEXTS)
        assert accuracy["utterances"] == len(TEXTS)
        low, high = accuracy["wer_ci95"]
        assert low <= accuracy["wer"] <= high
    assert any(row["hypothesis"] for row in table), "a random network with this bias says something"
    assert next(row for row in table if row["id"] == "test-7")["hypothesis"] == "", "0.05 s give no output"
    assert "wer_difference_to_full" in found["accuracy"]["float"]


def test_processes_change_nothing(monkeypatch, tiny, tmp_path):
    alone = evaluate(monkeypatch, tiny, tmp_path / "1.json", "decode=beam")
    together = evaluate(monkeypatch, tiny, tmp_path / "2.json", "decode=beam", "evaluation.jobs=2")
    assert alone["accuracy"] == together["accuracy"]
    for beside in (utterance_table.beside, utterance_lines.beside):
        assert beside(tmp_path / "1.json").read_text() == beside(tmp_path / "2.json").read_text()


def test_blank_penalty_changes_what_is_recognized(monkeypatch, tiny, tmp_path):
    plain = evaluate(monkeypatch, tiny, tmp_path / "1.json")["accuracy"]["float"]
    pushed = evaluate(monkeypatch, tiny, tmp_path / "2.json", "decode.blank_penalty=5")["accuracy"]["float"]
    assert pushed["deletions"] <= plain["deletions"]
    assert pushed["insertions"] > plain["insertions"]


def test_sample_is_the_same_in_any_order_and_another_with_another_seed(tiny):
    every = list(Stream(tiny[1] / "test.cuts.jsonl.gz", len(SECONDS)))
    chosen = sample(every, 3, 0)
    assert len(chosen) == 3
    assert sample(reversed(every), 3, 0) == chosen
    assert len({tuple(item.id for item in sample(every, 3, seed)) for seed in range(10)}) > 1


def test_a_variant_that_was_not_lowered_is_a_row_with_its_reason(monkeypatch, tmp_path):
    write_json(tmp_path / "variant" / "lower.json", {"status": "failed", "reason": "no room in SRAM", "target": "u55_128"})
    out = tmp_path / "eval.json"
    run(monkeypatch, "kind=variant", f"subject={tmp_path / 'variant'}", f"corpus_dir={tmp_path}", f"out={out}")
    found = json.loads(out.read_text())
    assert (found["status"], found["reason"]) == ("failed", "no room in SRAM")
    assert utterance_table.beside(out).read_text().count("\n") == 1


def refused(monkeypatch, capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    message = str(stopped.value.code)
    assert message.startswith("earshot evaluate: ")
    assert "\n" not in message
    return message


def test_bad_input_is_refused_in_one_line(monkeypatch, capsys, tiny, tmp_path):
    model, corpus = tiny
    common = ("kind=float", f"subject={model}", f"out={tmp_path / 'x.json'}")
    write_corpus(tmp_path / "empty", [], [])
    assert "no utterances" in refused(monkeypatch, capsys, *common, f"corpus_dir={tmp_path / 'empty'}")
    assert "dev.cuts.jsonl.gz" in refused(monkeypatch, capsys, *common, f"corpus_dir={corpus}", "split=dev")
    write_corpus(tmp_path / "silent", [1.0], [""])
    assert "without a single word" in refused(monkeypatch, capsys, *common, f"corpus_dir={tmp_path / 'silent'}")
    assert "window" in refused(monkeypatch, capsys, *common, f"corpus_dir={corpus}", "window.seconds=0.05", "window.overlap_s=0.02")
    assert "model.safetensors" in refused(monkeypatch, capsys, f"subject={tmp_path}", *common[::2], f"corpus_dir={corpus}")
    assert "no value given" in refused(monkeypatch, capsys, *common)
    assert not (tmp_path / "x.json").exists()


def test_audio_that_vanished_is_named(monkeypatch, capsys, tmp_path, tiny):
    corpus = write_corpus(tmp_path / "corpus", [1.0, 1.0], ["GO", "GO"])
    (corpus / "test-1.flac").unlink()
    message = refused(monkeypatch, capsys, "kind=float", f"subject={tiny[0]}", f"corpus_dir={corpus}", f"out={tmp_path / 'x.json'}")
    assert "test-1.flac" in message


def test_a_tokenizer_that_does_not_fit_the_program_is_refused(tiny):
    recognizer = checkpoint.load(tiny[0])
    program = FloatProgram(recognizer, 200)
    program.pieces = program.pieces[:-1]
    with pytest.raises(ArtifactError, match=r"subject: gives logits \(49, 10\), but .* ask for \(49, 9\)"):
        windowed("float", program, 0.5, "subject").logits(torch.zeros(100, 80))


def test_utterances_are_streamed(tiny):
    """A split is read cut by cut: taking one utterance of it does not need the others' audio."""
    stream = Stream(tiny[1] / "test.cuts.jsonl.gz", len(SECONDS))
    assert len(stream) == len(list(stream)) == len(list(stream))
    assert next(iter(stream)).reference == TEXTS[0]
