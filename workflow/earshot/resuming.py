"""State of an interrupted training, which lies beside the declared outputs of its rule and is gone on with."""

from __future__ import annotations

import shutil
from pathlib import Path

from earshot.files import read_json, write_json


def fresh_state(state: Path, fingerprint: dict) -> None:
    """Make sure that `state` belongs to this very training; the state of another one is put aside, not gone on with."""
    record = state / "training.json"
    if state.exists() and (not record.exists() or read_json(record)["fingerprint"] != fingerprint):
        aside = state.with_name("state.previous")
        shutil.rmtree(aside, ignore_errors=True)
        state.rename(aside)
        print(f"{state}: of other data or settings; moved to {aside}, training starts anew", flush=True)
    state.mkdir(parents=True, exist_ok=True)
    write_json(record, {"fingerprint": fingerprint})
