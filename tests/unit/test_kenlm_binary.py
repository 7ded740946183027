"""A binary that KenLM's build_binary made of an ARPA file finds the words that the ARPA file finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from counted_arpa import write_arpa
from stage_command import fails, run
from tiny_recognizer import PIECES, write_corpus, write_model

from earshot import utterance_lines

TEXTS = ["GO", "TURN ON THE LIGHT", "TURN OFF THE LIGHTS", "STOP"]


@pytest.fixture
def build_binary(tmp_path) -> Path:
    folder = tmp_path / "kenlm"
    script = Path(__file__).with_name("kenlm.sh")
    done = subprocess.run([script, folder], env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return folder / "build_binary"


@pytest.mark.slow
def test_a_binary_finds_what_its_arpa_file_finds(build_binary, tmp_path):
    write_model(tmp_path / "model")
    write_corpus(tmp_path / "corpus", [0.8, 1.0, 2.1, 3.3], TEXTS)
    arpa = write_arpa(tmp_path / "lm.arpa", TEXTS)
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("".join(f"{piece[1:]} {piece}\n" for piece in PIECES if piece.startswith("▁")))
    given = ["kind=float", f"subject={tmp_path / 'model'}", f"corpus_dir={tmp_path / 'corpus'}", "window=4s", "decode=lm"]

    def found(model: Path) -> list[list[dict]]:
        out = tmp_path / f"{model.name}.json"
        run("evaluate", *given, f"decode.lm={model}", f"decode.lexicon={lexicon}", "decode.nbest=3", f"out={out}")
        return [json.loads(line)["nbest"] for line in utterance_lines.beside(out).read_text().splitlines()]

    wanted = found(arpa)
    assert any(one["text"] for nbest in wanted for one in nbest)
    for kind in ("probing", "trie"):
        binary = tmp_path / f"lm.{kind}"
        subprocess.run([build_binary, kind, arpa, binary], check=True, capture_output=True)
        assert not binary.read_bytes().startswith(b"\\data\\")
        for one, other in zip(wanted, found(binary), strict=True):
            assert [text["text"] for text in one] == [text["text"] for text in other]
            assert [text["score"] for text in one] == pytest.approx([text["score"] for text in other], abs=1e-3)
    message = fails("evaluate", *given, f"decode.lm={binary}", f"out={tmp_path / 'without.json'}")
    assert "lexicon" in message
