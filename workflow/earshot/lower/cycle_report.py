"""Where cycles and SRAM of an Ethos-U go: by layer, by kind of operator, by module of the model, beside what no compiler can go below.

Each layer of Vela's estimate is followed back to the TOSA operator it was made from, and that one to the module of the model. The floors:
all multiply-accumulates at the full rate of the accelerator, and the weights read once from the memory that holds them. Both run at once.
They bound the network; a module may spend less than its weights take, since Vela fetches weights while an earlier layer computes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low

from earshot.errors import ArtifactError
from earshot.files import atomic
from earshot.lower import cycle_plot, memory_plot, module_names, tosa_operators, vela_database, vela_report
from earshot.lower.module_names import Origin
from earshot.lower.tosa import GRAPH
from earshot.lower.tosa_operators import Operator
from earshot.lower.vela_database import Estimate

BY_LAYER, BY_OPERATOR, BY_MODULE, PICTURE = "cycles_by_layer.csv", "cycles_by_operator.csv", "cycles_by_module.csv", "cycles.svg"
MEMORY_PICTURE = "sram.svg"
FILES = (BY_LAYER, BY_OPERATOR, BY_MODULE, PICTURE, MEMORY_PICTURE)


@dataclass(frozen=True)
class Layer:
    """A line of cycles_by_layer.csv: a layer of the compiled network, in the order of execution."""

    layer: str  # Vela's name
    operator: str  # Vela's kind
    tosa_operator: str  # kind of the operator it was made from
    module: str  # part of the model
    submodule: str  # the full name
    attribution: str  # exact, or nearest: the compiler made the operator, and the module is that of what uses its result
    cycles: int
    npu_cycles: int  # computation alone, without waiting for memory
    macs: int  # multiply-accumulates of the model, as TOSA defines its operators
    weight_bytes: int  # of the weights as stored; 0 for weights that an earlier layer has already
    flash_bytes: int  # read from the memory that holds the weights: weights, biases, constants; again where they are fetched again
    sram_bytes: int  # in use while the layer runs


@dataclass(frozen=True)
class Rates:
    """What an accelerator can do in a cycle."""

    macs: int
    flash_bytes: float  # of the memory that holds the weights

    def floors(self, macs: int, weight_bytes: int) -> dict[str, int]:
        """Cycles that are needed at least."""
        return {"mac_floor_cycles": math.ceil(macs / self.macs), "flash_floor_cycles": math.ceil(weight_bytes / self.flash_bytes)}


def write(folder: Path, database: Path, accelerator: str) -> dict[str, float]:
    """Add the report to a variant directory that holds the compiled graph and Vela's tables; the figures are for lower.json's `npu`.

    Args:
        folder: with graph.tosa, graph_modules.json, vela_summary.csv and vela_per_layer.csv.
        database: debug database of the run of Vela that wrote the tables.
        accelerator: Vela's name, which ends in the multiply-accumulates of a cycle.

    Raises:
        ArtifactError: a file is damaged or of another lowering.
    """
    graph = folder / GRAPH
    area, bytes_per_cycle = vela_report.weight_memory(folder / vela_report.SUMMARY)
    operators, origins = tosa_operators.read(graph), module_names.read(graph)
    estimates = vela_database.read(database, area)
    sram = vela_report.sram_by_layer(folder / vela_report.PER_LAYER, [(one.name, one.cycles) for one in estimates])
    if not all(0 <= one.source < len(operators) for one in estimates):
        raise ArtifactError(f"{database}: names operators that {graph} does not have; lower again")
    rates = Rates(int(accelerator.rpartition("-")[2]), bytes_per_cycle)
    table = layers(operators, origins, estimates, sram)
    order = _network_order(operators, origins)
    by_module = sums(table, lambda one: one.module, rates)
    modules = {name: by_module[name] for name in sorted(by_module, key=lambda name: order.get(name, len(operators)))}
    kinds = sorted(sums(table, lambda one: one.operator, rates).items(), key=lambda item: -item[1]["cycles"])
    total = sums(table, lambda one: "total", rates)["total"]
    _write_csv(folder / BY_LAYER, [asdict(one) for one in table])
    _write_csv(folder / BY_OPERATOR, [{"operator": name, **one} for name, one in kinds])
    _write_csv(folder / BY_MODULE, [{"module": name, **one} for name, one in modules.items()])
    pictures = {
        PICTURE: cycle_plot.svg(table, list(modules), modules, total),
        MEMORY_PICTURE: memory_plot.svg(table, vela_report.sram_kib(folder / vela_report.SUMMARY)),
    }
    for name, picture in pictures.items():
        with atomic(folder / name) as temporary:
            temporary.write_text(picture)
    return {
        **{key: total[key] for key in ("mac_floor_cycles", "flash_floor_cycles", "mac_utilisation", "flash_bytes")},
        "cycles_attributed_exactly": total["cycles_exact"] / total["cycles"],
    }


def layers(operators: Sequence[Operator], origins: Mapping[str, Origin], estimates: Sequence[Estimate], sram: Sequence[int]) -> list[Layer]:
    """The lines of the table; `origins` by the tensor that an operator makes, `sram` the bytes in use by layer."""
    macs, owner = _macs(operators, estimates), dict[str, int]()
    found = []
    for one, share, in_use in zip(estimates, macs, sram, strict=True):
        operator = operators[one.source]
        origin = origins.get(operator.outputs[0], Origin(module_names.MODEL, exact=False))  # the compiler may copy a constant
        first = owner.setdefault(operator.weights, one.source) if operator.weights else one.source
        found.append(
            Layer(
                layer=one.name,
                operator=one.kind,
                tosa_operator=operator.kind,
                module=origin.module,
                submodule=origin.path,
                attribution="exact" if origin.exact else "nearest",
                cycles=one.cycles,
                npu_cycles=one.npu_cycles,
                macs=share,
                weight_bytes=one.weight_bytes if first == one.source else 0,
                flash_bytes=one.read_bytes,
                sram_bytes=in_use,
            )
        )
    return found


def _macs(operators: Sequence[Operator], estimates: Sequence[Estimate]) -> list[int]:
    """What each layer does of the multiply-accumulates of its TOSA operator.

    An operator may become several layers: some that move its tensors, and one or more (a matrix product per head) that multiply. Vela's
    own counts tell which multiply, the largest do; of the first convolution it counts half.
    """
    parts: dict[int, list[int]] = {}
    for i, one in enumerate(estimates):
        parts.setdefault(one.source, []).append(i)
    shares = [0] * len(estimates)
    for source, members in parts.items():
        kind = estimates[max(members, key=lambda i: estimates[i].macs)].kind
        multiply = [i for i in members if estimates[i].kind == kind]
        counted, left = sum(estimates[i].macs for i in multiply), operators[source].macs
        for i in multiply[:-1]:
            shares[i] = operators[source].macs * estimates[i].macs // max(counted, 1)
            left -= shares[i]
        shares[multiply[-1]] = left
    return shares


def sums(table: Iterable[Layer], key: Callable[[Layer], str], rates: Rates) -> dict[str, dict[str, float]]:
    """Figures of the layers with the same key, by the key."""
    groups: dict[str, list[Layer]] = {}
    for one in table:
        groups.setdefault(key(one), []).append(one)
    found = {}
    for name, members in groups.items():
        cycles, macs, weights = (sum(getattr(one, what) for one in members) for what in ("cycles", "macs", "weight_bytes"))
        found[name] = {
            "layers": len(members),
            "cycles": cycles,
            "cycles_exact": sum(one.cycles for one in members if one.attribution == "exact"),
            "npu_cycles": sum(one.npu_cycles for one in members),
            "macs": macs,
            "mac_utilisation": macs / (cycles * rates.macs) if cycles else 0.0,
            "weight_bytes": weights,
            "flash_bytes": sum(one.flash_bytes for one in members),
            **rates.floors(macs, weights),
        }
    return found


def _network_order(operators: Sequence[Operator], origins: Mapping[str, Origin]) -> dict[str, int]:
    """The place of each module. Constants are computed long before they are used, hence the middle of a module's operators counts."""
    places: dict[str, list[int]] = {}
    for i, operator in enumerate(operators):
        origin = origins.get(operator.outputs[0])
        if origin and origin.exact:
            places.setdefault(origin.module, []).append(i)
    return {name: median_low(at) for name, at in places.items()}


def _write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    with atomic(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
