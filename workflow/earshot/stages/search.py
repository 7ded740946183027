"""`python -m earshot.stages.search`: the candidates of a search, compared in PyTorch; what is built of them, the propose stage says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from earshot.config import SearchStage
from earshot.files import read_json, write_json
from earshot.quantize import sensitivity
from earshot.quantize.laboratory import Laboratory
from earshot.quantize.mixing import FLOAT, MixedNetwork
from earshot.quantize.probe import Probe
from earshot.search import candidates, costs, greedy, trials
from earshot.search.candidates import Point
from earshot.search.proposals import Assignment, mixture, uniform
from earshot.search.select import Candidate, front
from earshot.stages import stage

MOST = 24  # candidates whose words are counted
SIZES = ("flash_kib", "pte_bytes", "latency_ms")  # what a search for the lowest WER goes by: the first that the budget limits
STUDY = Path("state", "study.db")  # no declared output: Snakemake deletes those of a job that was killed


def size(cfg: SearchStage) -> str:
    """The figure that parts are to save: the objective, or where that is the WER, a size."""
    if cfg.search.objective != "wer":
        return cfg.search.objective
    return next((name for name in SIZES if getattr(cfg.budget, name) is not None), SIZES[0])


def built(cfg: SearchStage, table: Mapping[str, Any]) -> dict[str, costs.Uniform]:
    """The uniform schemes that could be built, by name."""
    ids = {uniform(name, next(iter(cfg.calibrations))).id: name for name in cfg.schemes}
    weights, found = sensitivity.weights(table, next(iter(table["whole"]))), {}
    for path in cfg.uniform:
        trial = trials.read(path)
        if trial.scheme in ids and trial.status != "failed":
            quant = cfg.schemes[ids[trial.scheme]]
            parts = costs.by_module(Path(path).parent, weights, quant.weight_bits if quant.quantize else 32)
            found[ids[trial.scheme]] = costs.Uniform(trial.figures, parts)
    return {name: found[name] for name in cfg.schemes if name in found}


class Comparison:
    """Mixtures in PyTorch, with each calibration."""

    def __init__(self, cfg: SearchStage, names: Iterable[str]) -> None:
        self._cfg, self._laboratory = cfg, Laboratory(cfg)
        self._quants = {name: cfg.schemes[name] for name in names}
        self._networks: dict[str, MixedNetwork] = {}
        self._probe: Probe | None = None
        self._float_wer = 0.0

    def mixed(self, assignment: Assignment, calib: str) -> tuple[MixedNetwork, Probe]:
        """The network of a mixture, which is the same object for all mixtures of a calibration, and what measures it."""
        if calib not in self._networks:
            self._networks[calib] = self._laboratory.network(self._quants, self._cfg.calibrations[calib], calib)
        network, base = self._networks[calib], next(iter(self._quants))
        if self._probe is None:
            self._probe = self._laboratory.probe(network, self._cfg.search.dev_utterances)
            self._float_wer = self._probe.wer(network)
        precision = {name: name if quant.quantize else FLOAT for name, quant in self._quants.items()}
        network.mix(lambda operator: precision[assignment.get(operator.part, base)])
        return network, self._probe

    def measure(self, assignment: dict[str, str], calib: str) -> Point:
        """Noise and loss."""
        network, probe = self.mixed(assignment, calib)
        measured = probe.measure(network, with_wer=False)
        return Point(calib, assignment, measured.noise, measured.loss)

    def wer_increase(self, point: Point) -> float:
        """On the dev split, against the float network."""
        network, probe = self.mixed(point.assignment, point.calib)
        return probe.wer(network) - self._float_wer


def thinned(path: list, most: int) -> list:
    """At most `most` of a list, evenly, its last among them."""
    return path[::-1][:: max(1, -(-len(path) // most))][::-1]


def points(
    cfg: SearchStage, compared: Comparison, path: list[dict[str, str]], schemes: list[str], predict: Callable[[Assignment], float]
) -> list[Point]:
    """What the method compares: the path of greedy, and with the joint search what Optuna makes of it."""
    calib = next(iter(cfg.calibrations))
    first = [{}, *thinned(path, MOST)]
    if cfg.search.method == "greedy" or not path:
        return [compared.measure(one, calib) for one in tqdm(first, desc="compare", unit="mixture", disable=None)]
    from earshot.search import joint  # with Optuna, which greedy does without

    space = joint.Space(sorted(path[-1]), schemes, list(cfg.calibrations))
    store = Path(cfg.out).parent / STUDY
    return joint.explore(space, compared.measure, predict, [(one, calib) for one in first], cfg.search.trials, cfg.search.seed, store)


@stage("search")
def main(cfg: SearchStage) -> None:
    started = time.monotonic()
    table = read_json(cfg.table)
    schemes = built(cfg, table)
    base = next(iter(cfg.schemes))
    search, calibs = cfg.search, list(cfg.calibrations)
    head = {"method": search.method, "objective": search.objective, "schemes": list(schemes), "calibrations": calibs}
    if base not in schemes or len(schemes) < 2:
        reason = f"of {', '.join(cfg.schemes)} only {', '.join(schemes) or 'none'} could be built: there is nothing to mix"
        write_json(cfg.out, {**head, "reason": reason, "compared": 0, "candidates": []})
        return
    cost, figure = costs.Costs(base, schemes), size(cfg)
    path = greedy.path(sensitivity.noise_alone(table, schemes), lambda part, scheme: cost.saving(part, scheme, figure), base)
    savers, values = list(path[-1]) if path else [], {name: asdict(cfg.schemes[name]) for name in schemes}
    compared = Comparison(cfg, schemes)
    found = points(cfg, compared, path, list(schemes), lambda assignment: cost.predict(assignment)[figure])
    kept = front(found, lambda one: one.noise, lambda one: cost.predict(one.assignment)[figure])
    whole = [compared.measure(dict.fromkeys(savers, name), calibs[0]) for name in schemes if name != base]
    known = list(sensitivity.weights(table, next(iter(table["whole"]))))
    shown = {}
    for one in [*thinned(kept, MOST), *whole]:
        proposal = mixture(one.assignment, values, one.calib, savers, known)
        shown[proposal.id] = proposal, one
    rows = [
        Candidate(proposal, one.assignment, one.loss, one.noise, compared.wer_increase(one), cost.predict(one.assignment))
        for proposal, one in tqdm(shown.values(), desc="words of candidates", unit="mixture", disable=None)
    ]
    write_json(
        cfg.out,
        {
            **head,
            "size": figure,
            "path": savers,
            "compared": len(found),
            "candidates": candidates.content(rows),
            "seconds": round(time.monotonic() - started, 1),
        },
    )


if __name__ == "__main__":
    main()
