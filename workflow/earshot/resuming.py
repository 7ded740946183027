"""State of an interrupted training, which lies beside the declared outputs of its rule and is gone on with."""

from __future__ import annotations

import itertools
from pathlib import Path

from earshot.files import read_json, write_json


def fresh_state(state: Path, fingerprint: dict) -> None:
    """Make sure that `state` belongs to this very training; the state of another one is put aside, not gone on with."""
    record = state / "training.json"
    known = read_json(record)["fingerprint"] if record.exists() else {}
    if state.exists() and known != fingerprint:
        differs = ", ".join(sorted(key for key in known.keys() | fingerprint.keys() if known.get(key) != fingerprint.get(key)))
        aside = next(path for path in (state.with_name(f"state.previous{n or ''}") for n in itertools.count()) if not path.exists())
        state.rename(aside)
        print(f"{state}: of other data or settings ({differs}); moved to {aside}, training starts anew", flush=True)
    state.mkdir(parents=True, exist_ok=True)
    write_json(record, {"fingerprint": fingerprint})
