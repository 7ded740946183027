"""Names of what is built: the choices, and whatever was overridden beyond them. A person reads them, and they are paths."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

# They say how fast or from where, not what comes out: no part of a name, and no reason to build again.
NEUTRAL_KEYS = {"jobs", "data_workers", "mirror", "download"}
LONGEST_VALUE = 24
MODEL_FILE = "model.safetensors"  # in a model directory
LONGEST_NAME = 250  # of a run in MLflow, where it lies in PostgreSQL


def suffix(difference: Mapping[str, Any]) -> str:
    """`+key=value` for each override that changes what is built; a value that does not read well in a path is shortened to a digest."""
    return "".join(f"+{key}={slug(value)}" for key, value in sorted(difference.items()) if key not in NEUTRAL_KEYS)


def slug(value: Any) -> str:
    """A value as a part of a path."""
    # No comma: Snakemake separates wildcards by it where one of its processes starts another.
    text = "_".join(map(str, value)) or "empty" if isinstance(value, list) else str(value)
    if re.fullmatch(rf"[\w.-]{{1,{LONGEST_VALUE}}}", text) and text.strip("."):
        return text
    tail = re.sub(r"[^\w.-]+", "_", text.rstrip("/").rsplit("/", 1)[-1])[-LONGEST_VALUE:]
    return f"{tail}~{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def variant_names(variants: Iterable[str]) -> dict[str, str]:
    """A name to read for each variant, `model/scheme/target`, as short as columns of tables are narrow.

    The model is left out where there is but one, and of the scheme the parts at its end that all have (their window, say).
    """
    split = {variant: variant.split("/") for variant in variants}
    if any(len(parts) != 3 for parts in split.values()):
        return {variant: variant for variant in split}
    several = len({model for model, _, _ in split.values()}) > 1
    schemes = [scheme.split("-") for _, scheme, _ in split.values()]
    common = 0
    if len(set(map(tuple, schemes))) > 1:
        while len({tuple(scheme[-common - 1 :]) for scheme in schemes}) == 1:
            common += 1
    names = {}
    for variant, (model, scheme, target) in split.items():
        parts = scheme.split("-")
        names[variant] = "/".join([*([model] if several else []), "-".join(parts[: max(len(parts) - common, 1)]), target])
    return names


def shortened(name: str) -> str:
    """`name` as MLflow can keep it; the end of one that is too long gives way to a digest."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 7]}~{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def imported_name(imported: Mapping[str, Any]) -> str:
    """The file's name (of a model directory, the directory's), and a digest of all values by which it is imported."""
    path = PurePath(imported["checkpoint"])
    stem = re.sub(r"[^\w.]+", "_", path.parent.name if path.name == MODEL_FILE else path.stem)[-LONGEST_VALUE:]
    return f"{stem}~{hashlib.sha256(json.dumps(imported, sort_keys=True).encode()).hexdigest()[:6]}"
