"""The scheme and the target of docs/extending.md, built by `snakemake` with a conf/ that has its files."""

from __future__ import annotations

import csv
import shutil

import pytest
from extending_page import add_files
from running import ROOT, snakemake


@pytest.mark.slow
@pytest.mark.xdist_group("second_workflow")
@pytest.mark.timeout(1800)
def test_a_scheme_and_a_target_of_ones_own_are_built(finished, tmp_path):
    for name in ("conf", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    add_files(tmp_path / "conf")
    done = snakemake(finished, root=tmp_path, sweep="quant=mine window=4s target=mine", tracking="off", parity="off")
    assert "rule train" not in done.stdout
    with open(finished / "results" / "report" / "variants.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert (row["scheme"].split("-")[0], row["target"], row["status"]) == ("mine", "mine", "ok")
    assert float(row["npu_cycles"]) > 0 and float(row["wer"]) >= 0
