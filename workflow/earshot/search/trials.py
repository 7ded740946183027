"""Trials: what was built of a search, as its metrics.json says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earshot import variant_metrics
from earshot.budget import WER
from earshot.search.proposals import SEARCHED


@dataclass(frozen=True)
class Trial:
    """A built candidate."""

    variant: str  # id
    scheme: str  # with calibration: the id of the proposal
    status: str  # ok, failed, over_budget
    reason: str
    figures: dict[str, float]  # by the names of objectives and budgets; those that it has
    excess: float  # how far it is from the budget
    npu: bool  # whether Vela compiled it, or tried to

    @property
    def wer_increase(self) -> float | None:
        return self.figures.get(WER)


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """What searches minimize and budgets limit, of a metrics.json."""
    named = variant_metrics.figures(metrics)
    found = {"cycles": named.get("npu_cycles"), "wer": named.get("wer"), **variant_metrics.budget_figures(metrics)}
    return {name: value for name, value in found.items() if value is not None}


def read(path: str | Path) -> Trial:
    """
    Raises:
        ArtifactError: the metrics.json is absent, damaged or breaks its schema.
    """
    metrics = variant_metrics.read(path)
    config, choices = metrics["config"], metrics["choices"]
    made_up = config["quant"]["scheme"].startswith(SEARCHED)
    return Trial(
        metrics["variant"],
        f"{config['quant']['scheme'] if made_up else choices['quant']}-{choices['calib']}",
        metrics["status"],
        metrics.get("reason", ""),
        figures(metrics),
        metrics.get("budget", {}).get("excess", 0.0),
        config["target"]["family"] != "host",
    )


def read_all(paths: Iterable[str | Path]) -> list[Trial]:
    """The trials of some files, each once."""
    return list({trial.variant: trial for trial in map(read, paths)}.values())
