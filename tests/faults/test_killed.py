"""SIGKILL at random moments of every step, to Snakemake and all its jobs: a plain run then ends with what it would have ended with."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from running import snakemake
from workflows import Running, digests, figures

# Rules, and which of their jobs: each step of the workflow at least once, those that take long more often. Twenty moments.
MOMENTS = [
    *(("corpus", 1), ("corpus", 1), ("features", 1), ("features", 1), ("tokenizer", 1), ("train", 1), ("train", 1), ("train", 1)),
    *(("evaluate_float", 1), ("quantize", 1), ("quantize", 1), ("tosa", 1), ("tosa", 1), ("evaluate_program", 1), ("lower", 1)),
    *(("evaluate_variant", 1), ("parity", 1), ("metrics", 1), ("report", 1), ("track", 1)),
]
SHORTEST_S = 0.5  # of those that have no benchmark file


def seconds_of(rule: str, directory: Path) -> float:
    """How long a job of a rule has taken in a whole run."""
    files = list((directory / "results" / "benchmarks" / rule).rglob("*.tsv"))
    return max((float(path.read_text().splitlines()[1].split("\t")[0]) for path in files), default=SHORTEST_S)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_twenty_moments_it_ends_the_same(whole, tmp_path):
    chance, killed = random.Random(6), 0
    for rule, number in MOMENTS:
        moment_s = chance.random() * seconds_of(rule, whole)
        hit = Running(tmp_path, PYTHONHASHSEED="2").kill_after(rule, number, moment_s)
        killed += hit
        print(f"{time.strftime('%H:%M:%S')} {rule}: {'killed' if hit else 'over before'} {moment_s:.1f} s", flush=True)
        if hit:
            told = snakemake(tmp_path, check=False).stdout
            assert "cannot be locked" in told and "--unlock" in told, told
            snakemake(tmp_path, "--unlock")
    assert killed >= len(MOMENTS) // 2
    snakemake(tmp_path)
    assert figures(tmp_path) == figures(whole)
    assert digests(tmp_path) == digests(whole)
    assert not [path for path in (tmp_path / "results").rglob(".*") if path.is_file()], "nothing half-written is left"
