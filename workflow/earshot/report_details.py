"""What the report tells of a variant beyond its figures: which words it confuses, and which operators run where."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from earshot import variant_metrics
from earshot.errors import ArtifactError
from earshot.files import atomic, read_json

BY_OPERATOR, LOWERING, STORED = "cycles_by_operator.csv", "lower.json", "quantize.json"  # of the lower step, beside metrics.json


@dataclass(frozen=True)
class Operators:
    """The operators of one kind in a variant."""

    operator: str
    where: str  # NPU, XNNPACK or CPU
    count: int
    cycles: int | None = None  # Vela's estimate
    share: float | None = None  # of the cycles of the window, as a fraction


@dataclass(frozen=True)
class Details:
    confused: list[tuple[str, str, int]]  # word said, word recognized on the device, how often; the most frequent first
    operators: list[Operators]
    in_floats: list[str]  # modules that a scheme which quantizes others leaves in floats


def read(metrics: dict[str, Any], folder: Path) -> Details:
    """The details of a variant: from its metrics.json, and from what the lower step left beside it.

    Raises:
        ArtifactError: a file is damaged.
    """
    form = variant_metrics.device_form(metrics)
    confused = metrics["accuracy"][form].get("confused", []) if form else []
    return Details([tuple(one) for one in confused], _operators(metrics, folder), _in_floats(folder / STORED))


def _in_floats(path: Path) -> list[str]:
    modules = read_json(path).get("modules", {}) if path.is_file() else {}
    left = [name for name, stored in modules.items() if "float" in stored["weight"]]
    return left if len(left) < len(modules) else []  # a float scheme leaves nothing, it takes everything so


def _operators(metrics: dict[str, Any], folder: Path) -> list[Operators]:
    if "npu" in metrics:
        on_npu, on_cpu = _of_vela(folder / BY_OPERATOR), metrics["npu"].get("operators_cpu", {})
        delegated = {} if on_npu else metrics["npu"].get("operators_npu", {})
        return [*on_npu, *_counted(delegated, "NPU"), *_counted(on_cpu, "CPU")]
    path = folder / LOWERING
    found = read_json(path).get("operators", {}) if path.is_file() else {}
    return [*_counted(found.get("delegated", {}), "XNNPACK"), *_counted(found.get("cpu", {}), "CPU")]


def _of_vela(path: Path) -> list[Operators]:
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as stream:
            rows = [(row["operator"], int(row["layers"]), int(row["cycles"])) for row in csv.DictReader(stream)]
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: not a table of operators ({error!r}); run the lower step again") from error
    total = max(1, sum(cycles for *_, cycles in rows))
    return [Operators(name, "NPU", count, cycles, cycles / total) for name, count, cycles in rows]


def _counted(counts: dict[str, int], where: str) -> list[Operators]:
    return [Operators(name, where, count) for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def write_operators(path: Path, details: Iterable[tuple[str, Details]]) -> None:
    """Write operators.csv: a line for each kind of operator of each variant (id, details)."""
    columns = ["variant", *(field.name for field in fields(Operators))]
    with atomic(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for variant, detail in details:
            writer.writerows({"variant": variant, **asdict(one)} for one in detail.operators)
