"""What Vela estimates of a compiled network, from the tables that it writes."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from earshot.errors import ArtifactError

SUMMARY, PER_LAYER = "vela_summary.csv", "vela_per_layer.csv"


def collect(folder: Path) -> dict[str, Path]:
    """The files of interest among what a lowering left in `folder`, by the name they are kept under.

    Raises:
        ArtifactError: the compiler left none, or several of one kind.
    """
    found = {}
    for name, pattern in ((SUMMARY, "output/out_summary_*.csv"), (PER_LAYER, "output/out_per-layer.csv")):
        matches = list(folder.glob(pattern))
        if len(matches) != 1:
            raise ArtifactError(f"{folder / pattern}: {len(matches)} files where Vela writes one; run the lowering again")
        found[name] = matches[0]
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def npu(summary: Path, per_layer: Path, window_s: float) -> dict:
    """The figures of lower.json's `npu`: cycles and what they are spent on, latency, memory, operators.

    The NPU computes while memories are read, hence the parts of the cycles add up to more than the whole.
    """
    (row,) = _rows(summary)
    number = {key: float(row[key]) for key in row if _is_number(row[key])}
    latency_s = number["cycles_total"] / number["core_clock"]
    return {
        "cycles": int(number["cycles_total"]),
        "cycles_npu": int(number["cycles_npu"]),
        "cycles_sram": int(number["cycles_sram_access"]),
        "cycles_dram": int(number["cycles_dram_access"]),
        "cycles_flash": int(number["cycles_on_chip_flash_access"] + number["cycles_off_chip_flash_access"]),
        "clock_hz": int(number["core_clock"]),
        "latency_ms": 1000 * latency_s,
        "rtf": latency_s / window_s,
        "sram_kib": number["sram_memory_used"],
        "dram_kib": number["dram_memory_used"],
        "flash_kib": number["on_chip_flash_memory_used"] + number["off_chip_flash_memory_used"],
        "macs": int(number["nn_macs"]),
        "operators_npu": _operators(per_layer, "NPU"),
    }


def sram_kib(summary: Path) -> float:
    """The SRAM that the network needs."""
    (row,) = _rows(summary)
    return float(row["sram_memory_used"])


def weight_memory(summary: Path) -> tuple[str, float]:
    """The memory that holds the weights, by Vela's name, and the bytes that it gives in a cycle of the NPU.

    Raises:
        ArtifactError: absent or damaged.
    """
    try:
        (row,) = _rows(summary)
        area = row["weights_storage_area"]
        bandwidth = float(row[area.lower().replace("-", "_").replace(" ", "_") + "_bandwidth"]) * 2**30  # Vela writes GiB/s
        rate = bandwidth / float(row["core_clock"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{summary}: not a summary of Vela ({error!r}); run the lower step again") from error
    return area, rate


def sram_by_layer(per_layer: Path, found: list[tuple[str, int]]) -> list[int]:
    """The bytes of SRAM that are in use while each layer runs, from Vela's table of layers.

    Args:
        per_layer: that table.
        found: names and cycles of the layers from elsewhere, which must be those of the table.

    Raises:
        ArtifactError: the table is damaged, or of another compilation.
    """
    try:
        table = [(row["Name"], int(row["Op Cycles"]), int(row["Staging Usage"])) for row in _rows(per_layer)]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ArtifactError(f"{per_layer}: not a table of layers of Vela ({error!r}); run the lower step again") from error
    if [(name, cycles) for name, cycles, _ in table] != found:
        raise ArtifactError(
            f"{per_layer}: {len(table)} layers of {sum(cycles for _, cycles, _ in table)} cycles, but Vela's debug database has "
            f"{len(found)} of {sum(cycles for _, cycles in found)}; run the lower step again"
        )
    return [in_use for *_, in_use in table]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _operators(per_layer: Path, where: str) -> dict[str, int]:
    return dict(sorted(Counter(row["NNG Operator"] for row in _rows(per_layer) if row["Target"] == where).items()))


def memory(summary: Path) -> list[dict[str, str | float]]:
    """The memory table of the device bundle: each memory that the program uses, with KiB and what it holds."""
    (row,) = _rows(summary)
    holds = {row["feature_map_storage_area"]: "activations (arena)", row["weights_storage_area"]: "weights, biases, commands"}
    table: list[dict[str, str | float]] = []
    for name, key in (("SRAM", "sram"), ("DRAM", "dram"), ("On-chip Flash", "on_chip_flash"), ("Off-chip Flash", "off_chip_flash")):
        kib = float(row[f"{key}_memory_used"])
        if kib:
            table.append({"memory": name, "kib": kib, "holds": holds.get(name, "staging of what is read from slower memory")})
    return table
