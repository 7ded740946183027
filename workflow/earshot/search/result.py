"""The result of a search: the best trial within the budget, beside the uniform schemes, and what the search took."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from earshot.budget import WER, number
from earshot.errors import EarshotError
from earshot.files import atomic
from earshot.search.proposals import SEARCHED, Proposal
from earshot.search.trials import Trial

COLUMNS = (
    "variant",
    "round",
    "status",
    "reason",
    "winner",
    "wer",
    WER,
    "cycles",
    "latency_ms",
    "sram_kib",
    "flash_kib",
    "pte_bytes",
    "excess",
)
CLOSEST = 3
UNIFORM = 0  # round of the uniform schemes


class NothingFits(EarshotError):
    """A search has no trial within its budget."""


def best(trials: Sequence[Trial], objective: str) -> Trial | None:
    """The trial with the least of the objective, and of those the one with the lowest WER; None where none is within the budget."""
    good = [trial for trial in trials if trial.status == "ok" and objective in trial.figures]
    return min(good, key=lambda trial: (trial.figures[objective], trial.figures.get("wer", 1.0)), default=None)


def result(
    id: str, trials: Sequence[Trial], rounds: Sequence[Sequence[Proposal]], objective: str, budget: Mapping[str, Any], candidates: int
) -> dict[str, Any]:
    """The content of result.json.

    Args:
        id: of the search.
        rounds: proposals by round; round 0 has the uniform schemes.
        candidates: how many were compared in PyTorch.
    """
    built_in = {one.id: number for number, proposals in reversed(list(enumerate(rounds))) for one in proposals}
    winner = best(trials, objective)
    uniform = best([trial for trial in trials if built_in.get(trial.scheme) == UNIFORM], objective)
    content: dict[str, Any] = {"status": "ok" if winner else "over_budget", "search": id, "objective": objective}
    if winner is None:
        near = sorted((trial for trial in trials if trial.status == "over_budget"), key=lambda trial: trial.excess)[:CLOSEST]
        closest = "; closest: " + ", ".join(f"{trial.variant} ({trial.reason})" for trial in near) if near else "; none could be built"
        content["reason"] = f"none of {len(trials)} trials is within the budget{closest}"
        content["closest"] = [trial.variant for trial in near]
    return content | {
        "winner": winner and _told(winner),
        "best_uniform": uniform and _told(uniform),
        "budget": {name: limit for name, limit in budget.items() if limit is not None},
        "compared_in_pytorch": candidates,
        "vela_compilations": sum(trial.npu for trial in trials),
        "trials": [{**_told(trial), "round": built_in.get(trial.scheme)} for trial in trials],
    }


def _told(trial: Trial) -> dict[str, Any]:
    content = {"variant": trial.variant, "scheme": trial.scheme, "status": trial.status, "figures": trial.figures}
    return content | ({"reason": trial.reason, "excess": trial.excess} if trial.reason else {})


def in_order(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trials of a search, best objective first, those that are not within the budget below."""
    worst = float("inf")
    return sorted(content["trials"], key=lambda one: (one["status"] != "ok", one["figures"].get(content["objective"], worst)))


def write_table(path: Path, content: Mapping[str, Any]) -> None:
    """Write trials.csv."""
    won = (content["winner"] or {}).get("variant")
    with atomic(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for one in in_order(content):
            writer.writerow({**one["figures"], **one, "winner": one["variant"] == won})


def write_scheme(path: Path, proposal: Proposal) -> None:
    """Write a file for conf/quant that has the scheme."""
    values: dict[str, Any] = {"defaults": [proposal.quant, "_self_"], "scheme": proposal.scheme}
    if proposal.scheme.startswith(SEARCHED):
        values |= {"parts": list(proposal.parts), "families": list(proposal.families)}
    note = f"# Found by a search, calibrated as calib={proposal.calib}. In conf/quant/NAME.yaml it is quant=NAME.\n"
    with atomic(path) as temporary:
        temporary.write_text(note + yaml.safe_dump(values, sort_keys=False, width=140))


def sentence(content: Mapping[str, Any]) -> str:
    """The result for people."""
    took = f"{content['vela_compilations']} Vela compilations, {content['compared_in_pytorch']} mixtures compared in PyTorch"
    if content["status"] != "ok":
        return f"search {content['search']}: {content['reason']} ({took})"
    objective, winner, uniform = content["objective"], content["winner"], content["best_uniform"]
    beside = f"{uniform['variant']} {number(uniform['figures'][objective])}" if uniform else "none is within the budget"
    won = f"{winner['variant']} {number(winner['figures'][objective])}"
    return f"search {content['search']}: least {objective} within the budget: {won}; of the uniform schemes: {beside} ({took})"


def verdict(contents: Sequence[Mapping[str, Any]]) -> None:
    """Nothing, if all searches have a winner.

    Raises:
        NothingFits: names those that have none, with their closest trials.
    """
    without = [sentence(one) for one in contents if one["status"] != "ok"]
    if without:
        raise NothingFits("\n  ".join(without))


def tags(contents: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """What marks the trials in MLflow, by variant: the searches that they are of, and those that they win."""
    found: dict[str, dict[str, str]] = {}
    for one in contents:
        won = (one["winner"] or {}).get("variant")
        for trial in one["trials"]:
            of_trial = found.setdefault(trial["variant"], {"earshot.search": "", "earshot.winner_of": ""})
            for tag in ["earshot.search", *(["earshot.winner_of"] if trial["variant"] == won else [])]:
                of_trial[tag] = " ".join([*of_trial[tag].split(), one["search"]])
    return found
