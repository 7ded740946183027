"""How sensitive a network is: what it costs to quantize a part of it alone, and what it gives back to leave that part alone in floats."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from earshot.files import atomic
from earshot.quantize.mixing import FLOAT, MixedNetwork, Operator
from earshot.quantize.probe import Measured, Probe

ALONE, SPARED = "alone", "spared"
MODULE, OPERATOR = "module", "operator"
BELONGS: dict[str, Callable[[Operator], str]] = {MODULE: lambda one: one.part, OPERATOR: lambda one: one.kind}


@dataclass(frozen=True)
class Row:
    """A line of the table: a part of the network, or all operators of a kind, quantized alone or left alone in floats (spared).

    The changes are what that costs beside the float network, or what it gives back beside the network that is wholly quantized.
    """

    scheme: str
    by: str
    unit: str
    case: str
    operators: int
    weights: int | None  # of parts
    loss: float
    noise: float
    sqnr_db: float | None
    wer: float | None
    loss_change: float
    wer_change: float | None


def units(network: MixedNetwork) -> list[tuple[str, str]]:
    """What is measured by itself, in the order of the network: parts, then kinds of operators; those that rounding does something to."""
    return list(dict.fromkeys((by, belongs(one)) for by, belongs in BELONGS.items() for one in network.operators))


def uniform(scheme: str) -> Callable[[Operator], str]:
    return lambda operator: scheme


def partly(scheme: str, inside: set[str], case: str) -> Callable[[Operator], str]:
    """The scheme for the operators of these names alone, or for all others."""
    return lambda operator: scheme if (operator.name in inside) == (case == ALONE) else FLOAT


def rows(network: MixedNetwork, scheme: str, probe: Probe, float_: Measured, whole: Measured, progress: Callable) -> list[Row]:
    """The table of a scheme.

    Args:
        float_: the float network.
        whole: the network with all operators of the scheme.
        progress: wraps what is gone through, to show a bar.
    """
    weights, found = network.weights(), []
    for by, unit in progress(units(network)):
        inside = {one.name for one in network.operators if BELONGS[by](one) == unit}
        for case in (ALONE, SPARED):
            network.mix(partly(scheme, inside, case))
            measured = probe.measure(network)
            sign, beside = (1, float_) if case == ALONE else (-1, whole)
            found.append(
                Row(
                    scheme=scheme,
                    by=by,
                    unit=unit,
                    case=case,
                    operators=len(inside),
                    weights=weights.get(unit, 0) if by == MODULE else None,
                    loss=measured.loss,
                    noise=measured.noise,
                    sqnr_db=measured.sqnr_db,
                    wer=measured.wer,
                    loss_change=sign * (measured.loss - beside.loss),
                    wer_change=None if measured.wer is None or beside.wer is None else sign * (measured.wer - beside.wer),
                )
            )
    return found


def write_csv(path: Path, table: Sequence[Row]) -> None:
    with atomic(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(Row.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(map(asdict, table))


def noise_alone(content: Mapping[str, Any], schemes: Iterable[str]) -> dict[str, dict[str, float]]:
    """Scheme to part to the noise of that part alone, of a sensitivity.json; floats add none."""
    found = {
        scheme: {row["unit"]: row["noise"] for row in content["rows"] if (row["scheme"], row["by"], row["case"]) == (scheme, MODULE, ALONE)}
        for scheme in schemes
    }
    parts = {part for of_scheme in found.values() for part in of_scheme}
    return {scheme: of_scheme or dict.fromkeys(parts, 0.0) for scheme, of_scheme in found.items()}


def weights(content: Mapping[str, Any], scheme: str) -> dict[str, int]:
    """Part to number of weights, of a sensitivity.json."""
    return {row["unit"]: row["weights"] for row in content["rows"] if row["by"] == MODULE and row["scheme"] == scheme}
