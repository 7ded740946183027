"""The pages of MLflow's UI that people are sent to: the table of runs with the columns that matter, charts, a comparison, the Pareto page.

MLflow's own start page hides all of them.
"""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

from earshot.mlflow_store import Store

LINKED_RUNS = 20  # in the link that compares runs: the best ones
UI = "http://127.0.0.1:5000"  # where `mlflow ui` listens
VIEW = "earshot"  # of MLflow's shared views: a tag of the experiment holds it, a link names it
NAME_PX, TIME_PX = 210, 110
# Choices and figures in the table of runs, as track.choices and variant_metrics.figures name them, and how wide their columns are.
CHOICES = {"quant": 115, "calib": 95, "target": 80}
METRICS = {
    **{"wer": 80, "wer_difference": 115, "npu_latency_ms": 125, "host_latency_ms_p50": 160},
    **{"sram_kib": 80, "flash_kib": 80, "pte_kib": 75},
}


def view() -> dict[str, Any]:
    """The state of the table of runs, in the form that MLflow's UI reads (ExperimentPageUIState, and what its address would hold)."""
    name = "attributes.`Run Name`"
    widths = {f"params.`{key}`": px for key, px in CHOICES.items()} | {f"metrics.`{key}`": px for key, px in METRICS.items()}
    return {
        "orderByKey": "metrics.`wer`",
        "orderByAsc": True,
        "selectedColumns": list(widths),
        "columnOrder": [name, "runDateAndNestInfo", *widths],
        "columnWidths": {name: NAME_PX, "runDateAndNestInfo": TIME_PX, **widths},
    }


def save_view(store: Store) -> None:
    """Keep the table's columns with the experiment, for the links."""
    tag, state = f"mlflow.sharedViewState.{VIEW}", json.dumps(view())
    if store.client.get_experiment(store.experiment_id).tags.get(tag) != state:
        store.client.set_experiment_tag(store.experiment_id, tag, state)


def links(logged: dict[str, Any], registered: dict[str, Any]) -> dict[str, str]:
    """Where to look, by what is seen there.

    Args:
        logged: what `track.log_results` returned.
        registered: what `model_registry.register` returned; empty where models are not kept.
    """
    base = logged["uri"].rstrip("/") if logged["uri"].startswith("http") else UI
    experiment = f"{base}/#/experiments/{logged['experiment_id']}"
    # Failed runs stay out: MLflow then offers only the metrics that they share with the others.
    runs = [run["run_id"] for run in logged["variants"].values() if run["status"] != "failed"][:LINKED_RUNS]
    quoted = {name: urllib.parse.quote(json.dumps(value)) for name, value in (("runs", runs), ("experiments", [logged["experiment_id"]]))}
    # An order in the address would keep MLflow from reading the view.
    table = f"{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
    found = {
        "table": table,
        "charts": f"{table}&compareRunsMode=CHART",
        "compare": f"{base}/#/compare-runs?runs={quoted['runs']}&experiments={quoted['experiments']}&workflowType=machine_learning",
    }
    if model := next(iter(logged["models"].values()), None):
        found["pareto"] = f"{experiment}/runs/{model['run_id']}/artifacts/pareto.html?workflowType=machine_learning"
    if registered:
        found["models"] = f"{base}/#/models/{urllib.parse.quote(registered['name'])}?workflowType=machine_learning"
    return found
