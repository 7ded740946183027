"""What docs/extending.md adds, built by `snakemake` with a conf/ that has its files."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest
from extending_page import add_files
from running import ROOT, snakemake

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # a small corpus

from corpus_trees import write_tree

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("extended"), pytest.mark.timeout(1800)]


@pytest.fixture
def extended(tmp_path) -> Path:
    """A checkout, with the files of the page in its conf/."""
    for name in ("conf", "envs", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    add_files(tmp_path / "conf")
    return tmp_path


def test_a_scheme_and_a_target(finished, extended):
    done = snakemake(finished, root=extended, sweep="quant=mine window=4s target=mine", tracking="off", parity="off")
    assert "rule train" not in done.stdout
    with open(finished / "results" / "report" / "variants.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["scheme"].split("-")[0], row["target"], row["status"]) == ("mine", "mine", "ok")
    assert float(row["npu_cycles"]) > 0 and float(row["wer"]) >= 0


def test_a_model_and_a_corpus(extended):
    here = extended / "work"
    write_tree(here / "data" / "mine", {"train": [1, 2], "dev": [3], "test": [4]}, utterances=12, seconds=3.0)
    tiny = ["tokenizer.vocab_size=19 train.epochs=1 train.batch_s=20"]
    snakemake(here, "--until", "train", root=extended, tiny=tiny, corpus="mine", model="mine", train="small_data", tracking="off")
    (weights,) = here.glob("results/train/mine-mine-*/model.safetensors")
    assert (weights.parent / "metrics.json").exists()
