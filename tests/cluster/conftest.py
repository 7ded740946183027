"""A Slurm of one node, started once for this folder; where it cannot be had, the tests are skipped with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from one_node import DAEMONS, PROFILE, SWEEP, TWO_PROCESSES, Slurm, daemons


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path == Path(__file__).with_name("test_slurm.py"):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(3600))  # each job starts Snakemake anew, twice


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    before = daemons()
    one = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        one.start()
        assert {name for _, name in daemons() - before} >= DAEMONS
        yield one
    finally:
        one.stop()
    assert daemons() <= before


@pytest.fixture(scope="session")
def finished(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where variants of a tiny model have run to their end on Slurm; a job that has two GPUs trained it in two processes."""
    directory, profile = tmp_path_factory.mktemp("workflow"), tmp_path_factory.mktemp("profile")
    content = yaml.safe_load((PROFILE / "config.yaml").read_text())  # copied and edited, as docs/cluster.md has it
    content["set-resources"]["train"]["gpu"] = 2
    (profile / "config.yaml").write_text(yaml.safe_dump(content))
    output, status = slurm.run(directory, profile=profile, sweep=json.dumps(SWEEP), parity="off", overrides=TWO_PROCESSES)
    assert status == 0, output
    return directory
