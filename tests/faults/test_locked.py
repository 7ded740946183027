"""MLflow's database, held by another process: told in one line, nothing is lost, and a later pass logs all."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from stage_command import fails, run
from variants_on_disk import VARIANTS, write_results

from earshot.mlflow_store import Store

HOLD = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN ' + sys.argv[2]); print('held', flush=True); input()"


# None may read, or none may write.
@pytest.mark.parametrize("kind", ["EXCLUSIVE", pytest.param("IMMEDIATE", marks=pytest.mark.slow)])
def test_a_locked_database_is_told_and_nothing_is_lost(tmp_path, kind):
    write_results(tmp_path)
    path = tmp_path / "mlflow.db"
    store = Store(f"sqlite:///{path}", "demo", 5)
    words = [f"results={tmp_path}", "experiment_name=demo", f"tracking.uri=sqlite:///{path}", "tracking.models=false"]
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        message = fails("track", *words)
        assert time.monotonic() - started < 120
    finally:
        holder.communicate("\n")
    assert f"{path}: MLflow cannot be used (database is locked)" in message
    assert "nothing is lost" in message and f"fuser {path}" in message
    run("track", *words)
    assert len(store.runs()) == 1 + len(VARIANTS)
