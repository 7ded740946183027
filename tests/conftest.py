"""What several tests need: a front end, and a whole workflow at a tiny size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from pathlib import Path

# Tests run beside each other and beside Snakemake's jobs: more threads than cores only make them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# They start Snakemake a hundred times: where a container forbids Python to keep what it compiles, each of them would compile it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import pytest
import torch
from filelock import FileLock
from running import snakemake

from earshot.config import Features
from earshot.features import FrontEnd


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that share an expensive fixture run in one of the processes: those of a file, and all that look at the tiny workflow."""
    if not item.get_closest_marker("xdist_group"):
        of_workflow = item.path.parent.name in ("dag", "faults")
        item.add_marker(pytest.mark.xdist_group("workflow" if of_workflow else item.path.stem))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With EARSHOT_NO_SKIP (.ci/run sets it where it can), to lack root, Debian's packages or the demo is a failure."""
    report = yield
    if report.skipped and os.environ.get("EARSHOT_NO_SKIP") and item.path.parent.name in ("cluster", "services", "pages"):
        report.outcome, report.longrepr = "failed", f"EARSHOT_NO_SKIP is set, but: {report.longrepr[2]}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many inputs tests/hostile has tried: here, since of several processes the one that prints reads no other conftest.py."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports if getattr(report, "when", None) == "teardown"]
    tried = sum(value for report in reports for key, value in report.user_properties if key == "hostile inputs")
    if tried:
        terminalreporter.write_line(f"hostile inputs tried: {tried}")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Each test draws the same weights and inputs, whichever tests ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def front_end() -> FrontEnd:
    """A front end whose statistics are no round numbers."""
    return FrontEnd(Features(), mean=[-6.0 - 0.01 * i for i in range(80)], std=[3.0 + 0.01 * i for i in range(80)])


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """The folder of a tiny workflow that has run to its end by the command that people use; nothing else runs in it.

    One for all processes that tests run in: the first that wants it makes it. With EARSHOT_SHARED, a folder, one for several runs of
    pytest.
    """
    here = tmp_path_factory.getbasetemp()
    shared = Path(os.environ.get("EARSHOT_SHARED") or (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here))
    directory, made = shared / "whole", shared / "whole-is-made"
    with FileLock(shared / "whole.lock"), pytest.MonkeyPatch.context() as patch:
        if not made.exists():
            patch.setenv("PYTHONHASHSEED", "1")  # texts hash otherwise than in the runs that it is compared with
            snakemake(directory)
            made.touch()
    return directory


@pytest.fixture(scope="session")
def finished(whole, tmp_path_factory) -> Path:
    """A copy of it, with the times of its files; tests run more in it."""
    return shutil.copytree(whole, tmp_path_factory.mktemp("finished") / "workflow", symlinks=True)
