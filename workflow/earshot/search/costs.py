"""What a mixture will cost, from what the uniform schemes cost: figures that belong to parts of the network add up over the parts."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from earshot.errors import ArtifactError
from earshot.lower.cycle_report import BY_MODULE
from earshot.search.proposals import Assignment

ADDED_UP = {"cycles": "cycles", "latency_ms": "cycles", "flash_kib": "weight_bytes", "pte_bytes": "weight_bytes"}
LARGEST = "sram_kib"  # of the largest moment of the program, which the widest of its schemes decides
Shares = Mapping[str, Mapping[str, float]]  # part to figure of cycles_by_module.csv


@dataclass(frozen=True)
class Uniform:
    """A scheme that the whole network has: its figures, and those of its parts."""

    figures: Mapping[str, float]
    parts: Shares


class Costs:
    """Predicts the figures of mixtures.

    A mixture saves of the difference between a scheme and the base as much as its parts have of it: of flash and .pte by their weights, of
    cycles and latency by their cycles. With all parts it is the scheme's own figure.

    Args:
        base: name of the scheme that parts have unless they are given another.
        uniform: by the name of the scheme.
    """

    def __init__(self, base: str, uniform: Mapping[str, Uniform]) -> None:
        self._base, self._uniform = base, uniform
        self._shares = {name: self._shares_of(one) for name, one in uniform.items() if name != base}

    def _shares_of(self, one: Uniform) -> dict[str, dict[str, float]]:
        base, found = self._uniform[self._base].parts, {}
        for column in set(ADDED_UP.values()):
            saved = {part: values[column] - one.parts.get(part, values)[column] for part, values in base.items()}
            total = sum(saved.values())
            found[column] = {part: value / total if total else 0.0 for part, value in saved.items()}
        return found

    def predict(self, assignment: Assignment) -> dict[str, float]:
        """The figures of a mixture; those that all uniform schemes have."""
        base = self._uniform[self._base].figures
        predicted = {}
        for figure, column in ADDED_UP.items():
            if all(figure in one.figures for one in self._uniform.values()):
                predicted[figure] = base[figure] + sum(
                    (self._uniform[name].figures[figure] - base[figure])
                    * sum(shares[column].get(part, 0.0) for part, given in assignment.items() if given == name)
                    for name, shares in self._shares.items()
                )
        used = {self._base, *assignment.values()}
        figures = [self._uniform[name].figures for name in used if name in self._uniform]
        widest = [one[LARGEST] for one in figures if LARGEST in one]
        return predicted if len(widest) < len(figures) else {**predicted, LARGEST: max(widest)}

    def saving(self, part: str, scheme: str, figure: str) -> float:
        """What a part saves of a figure with a scheme instead of the base."""
        return self.predict({})[figure] - self.predict({part: scheme})[figure]


def by_module(variant_dir: Path, weights: Mapping[str, int], bits: int) -> dict[str, dict[str, float]]:
    """The figures of the parts of a built variant; on the host, which reports none, their weights stand for all.

    Args:
        weights: numbers of weights by part.
        bits: of a weight.

    Raises:
        ArtifactError: the table is damaged.
    """
    path = variant_dir / BY_MODULE
    if not path.is_file():
        return {part: dict.fromkeys(ADDED_UP.values(), count * bits / 8) for part, count in weights.items()}
    try:
        with path.open(newline="") as stream:
            return {row["module"]: {column: float(row[column]) for column in ADDED_UP.values()} for row in csv.DictReader(stream)}
    except (KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: not a table of cycles by module ({error!r}); run the lower step again") from error
