"""What goes wrong on real machines. The tests that need a whole workflow share one, tiny, that has run to its end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the tiny model and corpus

import stage_command
from tiny_recognizer import write_corpus
from tiny_steps import features_of

UTTERANCES = 12


@pytest.fixture(scope="session")
def noises(tmp_path_factory) -> Path:
    """A folder with corpus/ of noises, their features in shards of four utterances, and a tokenizer/."""
    folder = tmp_path_factory.mktemp("noises")
    texts = ["TURN ON THE LIGHT", "STOP", "TURN OFF THE LIGHT", "GO LEFT", "GO RIGHT", "TURN LEFT"] * (UTTERANCES // 6)
    for split, count in (("train", UTTERANCES), ("dev", 2), ("test", 1)):
        write_corpus(folder / "corpus", [1.5 + 0.1 * i for i in range(count)], texts[:count], split)
    stage_command.run("features", *features_of(folder, folder / "features"))
    stage_command.run("tokenizer", f"corpus_dir={folder / 'corpus'}", f"out={folder / 'tokenizer'}", "tokenizer.vocab_size=18")
    return folder
