"""What several tests need: a front end, and a small corpus of made-up audio."""

from __future__ import annotations

import os

# Tests run beside each other and beside Snakemake's jobs: more threads than cores only make them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from earshot.config import Features
from earshot.features import FrontEnd


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that share an expensive fixture run in one of the processes: those of a file, and all that look at one tiny workflow."""
    if not item.get_closest_marker("xdist_group"):
        folder = item.path.parent.name
        item.add_marker(pytest.mark.xdist_group(folder if folder in ("dag", "faults") else item.path.stem))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Each test draws the same weights and inputs, whichever tests ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def front_end() -> FrontEnd:
    """A front end whose statistics are no round numbers."""
    return FrontEnd(Features(), mean=[-6.0 - 0.01 * i for i in range(80)], std=[3.0 + 0.01 * i for i in range(80)])
