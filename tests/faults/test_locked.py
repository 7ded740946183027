"""MLflow's database, held by another process: told in one line, nothing is lost, and a later pass logs all."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage_command import fails, run
from variants_on_disk import VARIANTS, write_results

from earshot.config import Tracking
from earshot.live_run import LiveRun
from earshot.mlflow_store import Store

HOLD = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN ' + sys.argv[2]); print('held', flush=True); input()"


@contextlib.contextmanager
def held(path: Path, kind: str) -> Iterator[None]:
    """The database is locked by another process."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.communicate("\n")


# None may read, or none may write.
@pytest.mark.parametrize("kind", ["EXCLUSIVE", pytest.param("IMMEDIATE", marks=pytest.mark.slow)])
def test_a_locked_database_is_told_and_nothing_is_lost(tmp_path, kind):
    write_results(tmp_path)
    path = tmp_path / "mlflow.db"
    store = Store(f"sqlite:///{path}", "demo", 5)
    words = [f"results={tmp_path}", "experiment_name=demo", f"tracking.uri=sqlite:///{path}", "tracking.models=false"]
    with held(path, kind):
        started = time.monotonic()
        message = fails("track", *words)
        assert time.monotonic() - started < 120
    assert f"{path}: MLflow cannot be used (database is locked)" in message
    assert "nothing is lost" in message and f"fuser {path}" in message
    run("track", *words)
    assert len(store.runs()) == 1 + len(VARIANTS)


def test_a_training_does_not_wait_for_a_locked_database(tmp_path, caplog):
    path = tmp_path / "mlflow.db"
    tracking = Tracking(uri=f"sqlite:///{path}")
    Store(tracking.uri, "demo", 5)
    with held(path, "EXCLUSIVE"), caplog.at_level(logging.WARNING, "earshot.live_run"):
        live, started = LiveRun(tracking, "demo", "model", {}), time.monotonic()
        for step in range(50):
            live.log({"loss": 1.0}, step)
        assert time.monotonic() - started < 0.5, "logging does not wait"
        live.close()
        assert time.monotonic() - started < 60
        assert len(caplog.records) == 1 and "training goes on" in caplog.text
