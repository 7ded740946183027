"""Vela's debug database: each layer of the compiled network with its estimate and the TOSA operator it was made from."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from earshot.errors import ArtifactError

DATABASE = "output/out_debug.xml"  # below the folder of intermediate files


@dataclass(frozen=True)
class Estimate:
    """A layer as Vela schedules it. One that is fused into another has no cycles of its own."""

    name: str
    kind: str  # Vela's name of the operator
    source: int  # index of the TOSA operator in the file of the graph
    cycles: int  # the largest of computation and accesses to each memory
    npu_cycles: int  # computation
    macs: int  # as Vela counts, which includes elements that are merely moved or scaled
    weight_bytes: int  # as stored, compressed
    read_bytes: int  # from the memory that holds the weights


def read(path: Path, weights_area: str) -> list[Estimate]:
    """The layers in the order of their execution.

    Args:
        path: what Vela writes with --enable-debug-db.
        weights_area: the memory of the weights, by the name that Vela's summary has for it.

    Raises:
        ArtifactError: absent, damaged, or without a table or column that is needed.
    """
    try:
        tables = {
            table.get("name"): list(csv.DictReader(io.StringIO((table.text or "").strip()))) for table in ElementTree.parse(path).getroot()
        }
        sources = {row["id"]: int(row["ext_key"]) for row in tables["source"]}
        details = {row["id"]: row for row in tables["perf_debug"]}
        found = [_estimate(row, details[row["id"]], sources[row["source_id"]], weights_area) for row in tables["perf"]]
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; lower again") from None
    except (OSError, ElementTree.ParseError, LookupError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: not a debug database of Vela ({error!r}); lower again") from error
    if not found:
        raise ArtifactError(f"{path}: names no layer; lower again")
    return found


def _estimate(row: dict[str, str], detail: dict[str, str], source: int, weights_area: str) -> Estimate:
    return Estimate(
        row["name"],
        row["operator"],
        source,
        int(row["op_cycles"]),
        int(row["npu_cycles"]),
        int(row["mac_count"]),
        int(detail["weight_total_bytes"] or 0),
        _read_bytes(detail, weights_area),
    )


def _read_bytes(detail: dict[str, str], area: str) -> int:
    """Columns are named by memory, use and direction. With all in SRAM, Vela has no columns for the flash it says the weights are in."""
    memory = area.replace("-", "").replace(" ", "").lower()
    columns = [name for name in detail if name.lower().startswith(memory)]
    if not columns:
        columns = [name for name in detail if name.startswith(("SramWeights_", "SramScales_"))]
    return sum(int(detail[name] or 0) for name in columns if name.endswith("_read"))
