"""A whole workflow at a tiny size, run once by the command that people use; the tests look at what it left, and run it again."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a workflow that has run to its end."""
    directory = tmp_path_factory.mktemp("workflow")
    snakemake(directory)
    return directory
