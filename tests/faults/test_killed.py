"""SIGKILL at random moments of every step, to Snakemake and all its jobs: a plain run then ends with what it would have ended with."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from running import snakemake
from workflows import Running, digests, figures

# Rules whose first job is then under way: each step of the workflow at least once, those that take long more often. Twenty moments.
MOMENTS = [
    *("corpus", "corpus", "features", "features", "tokenizer", "train", "train", "train", "evaluate_float", "quantize", "quantize"),
    *("tosa", "tosa", "evaluate_program", "lower", "evaluate_variant", "parity", "metrics", "report", "track"),
]
SHORTEST_S = 0.5  # of those that have no benchmark file
TRIES = 3  # for a moment: a machine that is less busy than when a step was timed may be done with it before


def seconds_of(rule: str, *directories: Path) -> float:
    """How long the shortest job of a rule has taken in the runs of these directories."""
    files = [path for directory in directories for path in (directory / "results" / "benchmarks" / rule).rglob("*.tsv")]
    return min((float(path.read_text().splitlines()[1].split("\t")[0]) for path in files), default=SHORTEST_S)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_twenty_moments_it_ends_the_same(whole, tmp_path):
    chance, killed, options = random.Random(6), 0, []
    for rule in MOMENTS:
        for _ in range(TRIES):
            moment_s = chance.random() * seconds_of(rule, whole, tmp_path)
            # This rule, also where it was over before the last moment, and no further: those that follow it are left to be killed in.
            hit = Running(tmp_path, "--until", rule, "--forcerun", rule, *options, PYTHONHASHSEED="2").kill_after(rule, moment_s)
            print(f"{time.strftime('%H:%M:%S')} {rule}: {'killed' if hit else 'over before'} {moment_s:.1f} s", flush=True)
            if hit:
                break
        killed += hit
        if hit and not options:
            told = snakemake(tmp_path, check=False).stdout
            assert "cannot be locked" in told and "--unlock" in told, told
            snakemake(tmp_path, "--unlock")
            options = ["--nolock"]  # the same, in half of the time
    assert killed >= len(MOMENTS) // 2
    snakemake(tmp_path)
    assert figures(tmp_path) == figures(whole)
    found, wanted = digests(tmp_path), digests(whole)
    assert found.keys() == wanted.keys()
    assert not [name for name in wanted if found[name] != wanted[name]]
    assert "Nothing to be done" in snakemake(tmp_path).stdout
