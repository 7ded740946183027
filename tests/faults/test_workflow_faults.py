"""Two of them at once, clocks that jump, files that are cut off: what a whole workflow does, and what it says."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from running import jobs, snakemake
from workflows import Running, digests

DAY_S = 24 * 3600


@pytest.fixture
def again(whole, tmp_path) -> Path:
    """A copy of the whole workflow's folder, with the times of its files."""
    return shutil.copytree(whole, tmp_path / "again", symlinks=True)


def files(directory: Path) -> list[Path]:
    return [path for path in (directory / "results").rglob("*") if path.is_file()]


def date(paths: list[Path], seconds: float) -> None:
    """Date files so many seconds later than they are."""
    for path in paths:
        os.utime(path, (path.stat().st_mtime + seconds, path.stat().st_mtime + seconds))


@pytest.mark.slow
def test_of_two_at_once_the_second_is_told(tmp_path):
    first = Running(tmp_path)
    try:
        assert first.began("corpus")
        second = snakemake(tmp_path, check=False)
    finally:
        first.kill()
    assert second.returncode != 0
    assert "cannot be locked" in second.stdout and str(tmp_path) in second.stdout and "--unlock" in second.stdout


@pytest.mark.slow
def test_clocks_that_jump(tmp_path):
    """The corpus is made while a clock is ahead; then it is set right, and what is made of the corpus is older than it is."""
    pattern = r"results/tokenizer/\S+/tokenizer\.model"
    tokenizer = re.search(pattern, snakemake(tmp_path, "--dry-run").stdout)[0].rstrip(",")
    snakemake(tmp_path, "--until", "corpus")
    date(files(tmp_path), DAY_S)
    assert "dated in the future" in snakemake(tmp_path, tokenizer).stdout
    assert not [path for path in files(tmp_path) if path.stat().st_mtime > time.time()]
    for days in (-4000, 8000):
        date(files(tmp_path), days * DAY_S)
        assert "Nothing to be done" in snakemake(tmp_path, tokenizer).stdout


@pytest.mark.slow
def test_what_is_damaged_is_made_again_when_asked(again, whole):
    """As the messages say: delete it, so that the step that could not read it has it made, or run the step that makes it again."""
    (program,) = (again / "results").glob("programs/*/*/host/quantized.pt2")
    (unread,) = (again / "results").glob("variants/*/*/host/lower.json")
    program.unlink()
    unread.unlink()
    wanted = str(unread.relative_to(again))
    assert jobs(snakemake(again, "--dry-run", wanted)) == {"quantize", "lower"}
    snakemake(again, wanted)
    assert digests(again) == digests(whole)
    (graph,) = (again / "results").glob("programs/*/*/u85/graph.tosa")
    graph.write_bytes(graph.read_bytes()[:1000])
    snakemake(again, "--forcerun", "tosa", "--until", "tosa")
    assert digests(again) == digests(whole)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(whole, tmp_path):
    """In other processes, in which texts hash otherwise: from the corpus to the .pte of both targets."""
    reports = [str(path.relative_to(whole)) for path in whole.glob("results/variants/*/*/*/lower.json")]
    run = Running(tmp_path, *reports, environment={"PYTHONHASHSEED": "3"})
    output = run.process.communicate()[0]
    assert run.process.returncode == 0, output
    found, wanted = digests(tmp_path), digests(whole)
    assert len([name for name in found if name.endswith("model.pte")]) == 2
    assert not [name for name in found if found[name] != wanted[name]]
