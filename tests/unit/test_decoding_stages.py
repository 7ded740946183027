"""decode= through the commands that people use: evaluate, transcribe, and what makes a language model ready."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
import soundfile
from counted_arpa import write_arpa
from stage_command import fails, run
from test_librispeech_download import Mirror, mirror  # noqa: F401 (a fixture)
from tiny_recognizer import PIECES, noise, write_corpus, write_model

from earshot import utterance_lines, utterance_table
from earshot.config import Tokenizer
from earshot.decode import UNKNOWN
from earshot.tokenizer import train

SECONDS = [0.05, 1.0, 2.1, 3.3]
TEXTS = ["GO", "TURN ON THE LIGHT", "TURN OFF THE LIGHTS", "STOP"]
WINDOW = ["window=4s", "window.seconds=2"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A model, a corpus, a language model of its transcripts, and a lexicon."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder / "model")
    write_corpus(folder / "corpus", SECONDS, TEXTS)
    write_arpa(folder / "lm.arpa", TEXTS)
    words = [piece.removeprefix("▁") for piece in PIECES if piece.startswith("▁")]
    (folder / "lexicon.txt").write_text("".join(f"{word} ▁{word}\n" for word in words) + "LIGHTS ▁LIGHT S\n")
    return folder


def evaluate(tiny: Path, out: Path, *more: str) -> dict:
    files = [f"subject={tiny / 'model'}", f"corpus_dir={tiny / 'corpus'}", f"out={out}"]
    run("evaluate", "kind=float", *files, *WINDOW, *more)
    return json.loads(out.read_text())


def lm_words(tiny: Path) -> list[str]:
    return ["decode=lm", f"decode.lm={tiny / 'lm.arpa'}", f"decode.lexicon={tiny / 'lexicon.txt'}"]


@pytest.mark.parametrize("method", ["greedy", "beam", "lm"])
def test_every_utterance_has_words_with_times_and_aligned_errors(tiny, tmp_path, method):
    chosen = {"greedy": [], "beam": ["decode=beam", "decode.nbest=3"], "lm": [*lm_words(tiny), "decode.nbest=3"]}[method]
    out = tmp_path / "evaluation.json"
    found = evaluate(tiny, out, *chosen)
    lines = [json.loads(line) for line in utterance_lines.beside(out).read_text().splitlines()]
    assert [(one["id"], one["form"]) for one in lines] == [(f"test-{i}", form) for i in range(4) for form in ("float", "float_full")]
    table = {row["id"]: row for row in csv.DictReader(utterance_table.beside(out).open())}
    for one in lines:
        said, heard = one["reference"].split(), one["hypothesis"].split()
        assert [word["word"] for word in one["words"]] == heard == one["nbest"][0]["text"].split()
        assert len(one["nbest"]) <= (1 if method == "greedy" else 3)
        kinds = [error["type"] for error in one["errors"]]
        for kind in ("substitution", "deletion", "insertion"):
            assert kinds.count(kind) == one[f"{kind}s"]
        for error in one["errors"]:
            assert not error["said"] or said[error["of"]] == error["said"]
            assert not error["recognized"] or heard[error["at"]] == error["recognized"]
        assert all(0 <= word["start_s"] < word["end_s"] <= one["duration_s"] + 0.1 for word in one["words"])
        if one["form"] == "float":
            assert one["hypothesis"] == table[one["id"]]["hypothesis"]
    low, high = found["accuracy"]["float"]["wer_ci95"]
    assert low <= found["accuracy"]["float"]["wer"] <= high
    assert sum(one["substitutions"] for one in lines if one["form"] == "float") == found["accuracy"]["float"]["substitutions"]


def test_transcribe_prints_times_as_json(tiny, capsys):
    audio = tiny / "a.wav"
    soundfile.write(audio, noise(1.5, 0), 16_000)
    common = [f"program={tiny / 'model'}", f"audio={audio}"]
    run("transcribe", *common)
    words = capsys.readouterr().out.strip()
    run("transcribe", *common, "output=json")
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["audio"] == str(audio) and found["text"] == words == " ".join(word["word"] for word in found["words"])
    assert all(0 <= word["start_s"] < word["end_s"] <= 1.5 and 0 < word["confidence"] <= 1 for word in found["words"])
    run("transcribe", *common, "output=json", "decode.nbest=4", *lm_words(tiny))
    texts = [one["text"] for one in json.loads(capsys.readouterr().out)["nbest"]]
    assert len(set(texts)) == len(texts) == 4


def test_mistakes_are_one_line(tiny, tmp_path):
    common = ["kind=float", f"subject={tiny / 'model'}", f"corpus_dir={tiny / 'corpus'}", f"out={tmp_path / 'x.json'}", *WINDOW]
    assert "add decode.lm=FILE" in fails("evaluate", *common, "decode=lm")
    assert "beam_size=0: must be at least 1" in fails("evaluate", *common, "decode=beam", "decode.beam_size=0")
    assert "no such file" in fails("evaluate", *common, *lm_words(tiny), "decode.lm=nowhere.arpa")
    assert not (tmp_path / "x.json").exists() and not utterance_lines.beside(tmp_path / "x.json").exists()


# ---------------------------------------------------------------- language model and lexicon


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train(TEXTS * 20, Tokenizer(vocab_size=18), path)
    return path


def test_the_words_of_a_language_model_are_spelled_as_transcripts_are(tiny, tokenizer, tmp_path, capsys):
    from earshot import lexicon
    from earshot.tokenizer import Tokenizer as Spelling

    out, lm = tmp_path / "lexicon.txt", write_arpa(tmp_path / "lm.arpa", [*TEXTS, "QUIZ"])
    run("lexicon", f"lm={lm}", f"tokenizer_model={tokenizer}", f"out={out}")
    assert "8 words, 1 left out that the tokenizer cannot spell (QUIZ)" in capsys.readouterr().out
    spelling = Spelling(tokenizer)
    found = dict(lexicon.read(out, spelling.pieces))
    assert sorted(found) == sorted({word for text in TEXTS for word in text.split()})
    assert found["LIGHTS"].split() == [spelling.pieces[i] for i in spelling.encode("LIGHTS")] and UNKNOWN not in found.values()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give an ARPA file"),
        ("mmap lm http://kheafield.com/code format version 5\n\0", "give it with decode.lexicon=FILE"),
        ("\\data\\\nngram 1=2\n\n\\1-grams:\n-1 STOP\n", "cut off within its words"),
        ("\\data\\\nngram 1=1\n\n\\1-grams:\n-1 stop\n\n\\end\\\n", "can be spelled by the tokenizer; take a language model of such"),
    ],
)
def test_a_language_model_whose_words_cannot_be_spelled_is_told(tokenizer, tmp_path, content, message):
    if content is not None:
        (tmp_path / "lm.arpa").write_text(content)
    assert message in fails("lexicon", f"lm={tmp_path / 'lm.arpa'}", f"tokenizer_model={tokenizer}", f"out={tmp_path / 'lexicon.txt'}")
    assert not (tmp_path / "lexicon.txt").exists()


@pytest.fixture
def lm_server(mirror: Mirror, tmp_path, monkeypatch):  # noqa: F811
    """A mirror that has the language model."""
    monkeypatch.setattr("test_librispeech_download.URL_PATH", "/11/3-gram.pruned.1e-7.arpa.gz")
    mirror.content = write_arpa(tmp_path / "served.arpa.gz", TEXTS).read_bytes() * 200
    return mirror, f"checksum=sha256:{hashlib.sha256(mirror.content).hexdigest()}"


def test_a_language_model_is_fetched_resumed_and_checked(lm_server, tmp_path):
    server, checksum = lm_server
    out = tmp_path / "lm.arpa.gz"
    server.limits = [10_000]
    run("language_model", "name=librispeech_3gram", f"mirror={server.url}", f"out={out}", checksum)
    assert out.read_bytes() == server.content and server.ranges == [None, "bytes=10000-"]
    out.unlink()
    told = fails("language_model", "name=librispeech_3gram", f"mirror={server.url}", f"out={out}")
    assert "expected 71dd880667cb6ea3942bb1982988c91fb1208839a21911eeec7e31c857c4bdfb" in told and "decode.mirror" in told
    assert not out.exists()
    told = fails("language_model", "name=librispeech_3gram", f"mirror={server.url}/elsewhere", f"out={out}")
    assert "HTTP 404" in told and "check decode.mirror" in told
    assert "there are librispeech_3gram" in fails("language_model", "name=other", f"out={out}")
