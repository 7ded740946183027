"""Budgets: which figures of a variant are above their limit, by how much, and who comes closest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-9  # of a difference of two rates
WER = "max_wer_increase"
# How a figure of a budget is read: name of the figure, unit, factor of what is shown.
SHOWN = {
    WER: ("the WER is", " percentage points above float", 100),
    "sram_kib": ("SRAM is", " KiB", 1),
    "flash_kib": ("flash is", " KiB", 1),
    "latency_ms": ("latency is", " ms", 1),
    "pte_bytes": ("the .pte has", " bytes", 1),
}


@dataclass(frozen=True)
class Excess:
    """A figure above its limit."""

    figure: str
    value: float
    limit: float

    @property
    def share(self) -> float:
        """By how much it is too large: as a part of the limit; of the WER in points, one percentage point being 0.01."""
        over = self.value - self.limit
        return over if self.figure == WER else over / self.limit

    def __str__(self) -> str:
        what, unit, factor = SHOWN[self.figure]
        return f"{what} {number(factor * self.value)}{unit}, budget.{self.figure}={number(self.limit)}"


def number(value: float) -> str:
    """At most two decimals of a large number, four digits of a small one; a whole number whole."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.2f}".rstrip("0").rstrip(".")


def exceeded(figures: Mapping[str, float], budget: Mapping[str, float | None]) -> list[Excess]:
    """What is too large; a figure or limit that there is not is never."""
    limited = [(name, figures[name], limit) for name, limit in budget.items() if limit is not None and name in figures]
    return [Excess(name, value, limit) for name, value, limit in limited if value > limit + ROUNDING]


def excess(over: Sequence[Excess]) -> float:
    """How far a variant is from the budget: the largest share, 0 where nothing is exceeded."""
    return max((one.share for one in over), default=0.0)


def summary(over: Sequence[Excess]) -> dict[str, Any]:
    """What metrics.json says of them."""
    return {"excess": excess(over), "exceeded": {one.figure: {"value": one.value, "limit": one.limit} for one in over}}
