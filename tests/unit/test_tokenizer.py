"""The tokenizer: text comes back, and the pieces file is in the order of the network's outputs."""

from __future__ import annotations

import pytest

from earshot.config import Tokenizer as Config
from earshot.decode import text
from earshot.errors import ArtifactError, DataError
from earshot.tokenizer import Tokenizer, read_pieces, train, write_pieces

TEXTS = [
    f"TURN {way} THE {thing} {number}"
    for way in ("ON", "OFF")
    for thing in ("LIGHT", "HEATER", "FAN")
    for number in ("ONE", "TWO", "SEVEN")
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train(TEXTS, Config(vocab_size=20), path)
    return Tokenizer(path)


def test_text_survives_the_way_through_the_outputs(tokenizer, tmp_path):
    write_pieces(tmp_path / "pieces", tokenizer.pieces)
    pieces = read_pieces(tmp_path / "pieces")
    assert len(pieces) == 21
    for words in TEXTS:
        assert text(tokenizer.encode(words), pieces) == words


def test_the_blank_is_no_target(tokenizer):
    assert all(0 not in tokenizer.encode(words) for words in TEXTS)


def test_characters_outside_the_alphabet_are_counted(tokenizer):
    assert tokenizer.unknown("TURN ON") == 0
    assert tokenizer.unknown("TURN Ж") == 1


def test_the_same_texts_give_the_same_model(tmp_path):
    for name in ("a", "b"):
        train(TEXTS, Config(vocab_size=20), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_too_large_a_vocabulary_is_explained(tmp_path):
    with pytest.raises(DataError, match="vocab_size=500"):
        train(TEXTS, Config(vocab_size=500), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"tokenizer\.model"):
        Tokenizer(tmp_path / "tokenizer.model")
