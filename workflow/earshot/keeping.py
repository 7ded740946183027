"""What follows from configuration and source, kept on disk: what Hydra composed, the digests of the stages' source.

Snakemake reads the workflow anew for each run, and twice in each job of a cluster; to compose all variants takes some seconds each time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from earshot.composing import CONF_DIR
from earshot.errors import ArtifactError, StorageError
from earshot.files import read_json, write_json
from earshot.pipeline import Variant

FOLDER = Path(".snakemake/configurations")  # beside Snakemake's own records, and as easily made again
KEPT = 50
ENVIRONMENT = re.compile(r"\$\{oc\.env:(\w+)")


def kept(asked: Any, make: Callable[[], Any], folder: Path = FOLDER) -> Any:
    """What `make` gives, plain values, or gave when the same was asked for: by the same words, files of conf/, source and environment.

    Where nothing can be written, or a file is damaged, they are made.
    """
    path = folder / f"{_digest(json.dumps(asked, default=str))}.json"
    with contextlib.suppress(ArtifactError, OSError):
        return read_json(path)["made"]
    made = make()
    with contextlib.suppress(StorageError, OSError):  # nothing depends on it, and another Snakemake may write and forget beside this one
        write_json(path, {"made": made})
        _forget(folder)
    return made


def kept_variants(asked: Any, make: Callable[[], list[Variant]], folder: Path = FOLDER) -> list[Variant]:
    """What `make` gives, as `kept` has it."""
    made = kept(asked, lambda: [dataclasses.asdict(variant) for variant in make()], folder)
    return [Variant(**{**values, "overrides": tuple(values["overrides"])}) for values in made]


def _digest(words: str) -> str:
    files, names = _sources()
    environment = {name: os.environ.get(name) for name in (*names, *ENVIRONMENT.findall(words))}
    return hashlib.sha256(json.dumps([words, files, environment]).encode()).hexdigest()[:16]


@functools.cache
def _sources() -> tuple[str, tuple[str, ...]]:
    """A digest of conf/ and of this package, and the variables of the environment that conf/ names."""
    digest = hashlib.sha256()
    names: set[str] = set()
    package = (path for path in Path(__file__).parent.rglob("*.*") if path.parent.name != "__pycache__")
    for path in (*sorted(CONF_DIR.rglob("*.yaml")), *sorted(package)):
        content = path.read_bytes()
        digest.update(f"\0{path}\0{len(content)}\0".encode() + content)
        names.update(ENVIRONMENT.findall(content.decode(errors="replace")) if path.suffix == ".yaml" else ())
    return digest.hexdigest(), tuple(sorted(names))


def _forget(folder: Path) -> None:
    """All but the newest."""
    for path in sorted(folder.glob("*.json"), key=lambda one: one.stat().st_mtime_ns)[:-KEPT]:
        path.unlink(missing_ok=True)
