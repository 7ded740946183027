"""The search, without a network: what greedy chooses, what a mixture is called, what is built next, what wins, and that a study goes on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from stage_command import run
from variants_on_disk import content

from earshot import report
from earshot.errors import ArtifactError
from earshot.files import read_json, write_json
from earshot.search import candidates, costs, greedy, joint, result
from earshot.search.candidates import Point
from earshot.search.proposals import Proposal, mixture, uniform
from earshot.search.select import Candidate, select
from earshot.search.trials import Trial

SCHEMES = {
    name: {"quantize": True, "weight_bits": bits, "activation_bits": 8, "per_channel": True, "dynamic": False, "families": families}
    for name, bits, families in (("int8_pc", 8, ["u85", "u55", "host"]), ("a8w4", 4, ["u85", "u55"]))
}
# Parts with what they weigh in bytes with 8 bits, and the noise of each alone.
WEIGHT = {"subsampling": 100.0, "subsampling.convs.0": 10.0, "blocks.0.feed_forward1": 400.0, "output": 90.0}
NOISE = {
    "int8_pc": dict.fromkeys(WEIGHT, 0.001),
    "a8w4": {"subsampling": 0.002, "subsampling.convs.0": 0.3, "blocks.0.feed_forward1": 0.011, "output": 0.091},
}


def uniform_costs() -> costs.Costs:
    def of(bits: int) -> costs.Uniform:
        figures = {"flash_kib": 100 + 75 * bits, "cycles": 1000.0 + 10 * bits, "sram_kib": 400 + bits}
        return costs.Uniform(figures, {part: {"weight_bytes": size * bits / 8, "cycles": 100.0 + bits} for part, size in WEIGHT.items()})

    return costs.Costs("int8_pc", {"int8_pc": of(8), "a8w4": of(4)})


# ---------------------------------------------------------------- candidates


def test_greedy_takes_what_saves_most_for_its_noise():
    """50 bytes for 0.001, then 200 for 0.01, then 45 for 0.09, then 5 for 0.299."""
    cost = uniform_costs()
    path = greedy.path(NOISE, lambda part, scheme: cost.saving(part, scheme, "flash_kib"), "int8_pc")
    order = ["subsampling", "blocks.0.feed_forward1", "output", "subsampling.convs.0"]
    assert [list(one) for one in path] == [order[: i + 1] for i in range(4)]


def test_what_saves_nothing_stays_as_it_is():
    path = greedy.path(NOISE, lambda part, scheme: 1.0 if part == "output" else 0.0, "int8_pc")
    assert path == [{"output": "a8w4"}]


def test_a_mixture_costs_between_the_schemes_as_much_as_its_parts_weigh():
    cost = uniform_costs()
    assert cost.predict({})["flash_kib"] == 700 and cost.predict(dict.fromkeys(WEIGHT, "a8w4"))["flash_kib"] == pytest.approx(400)
    predicted = cost.predict({"blocks.0.feed_forward1": "a8w4"})
    assert predicted["flash_kib"] == pytest.approx(700 - 300 * 400 / 600) and predicted["cycles"] == pytest.approx(1080 - 40 / 4)
    assert predicted["sram_kib"] == 408, "the widest of its schemes decides"


def test_a_mixture_says_its_inner_modules_first():
    made = mixture({"subsampling": "a8w4"}, SCHEMES, "hist64", list(WEIGHT), list(WEIGHT))
    assert [(part["modules"], part["weight_bits"]) for part in made.parts] == [("subsampling.convs.0", 8), ("subsampling", 4)]
    assert made.families == ("u85", "u55") and made.id == f"{made.scheme}-hist64" and made.quant == "int8_pc"
    assert made == mixture({"subsampling": "a8w4", "output": "int8_pc"}, SCHEMES, "hist64", list(WEIGHT), list(WEIGHT))
    assert made.scheme != mixture({"output": "a8w4"}, SCHEMES, "hist64", list(WEIGHT), list(WEIGHT)).scheme


def test_one_scheme_in_all_parts_is_that_scheme():
    whole = mixture(dict.fromkeys(["subsampling", "output"], "a8w4"), SCHEMES, "hist64", ["subsampling", "output"], list(WEIGHT))
    assert whole == uniform("a8w4", "hist64")
    assert mixture({}, SCHEMES, "hist64", ["output"], list(WEIGHT)) == uniform("int8_pc", "hist64")


# ---------------------------------------------------------------- what is built next


def candidate(i: int, wer_increase: float | None = None) -> Candidate:
    """The i-th of a path: each has more noise and less flash than the one before."""
    made = Proposal("int8_pc", "hist64", f"search_{i}")
    return Candidate(made, {}, 0.1 * i, 0.01 * i, wer_increase, {"flash_kib": 1000.0 - 50 * i, "sram_kib": 400.0 + i})


def trial(i: int, wer_increase: float, status: str = "ok", **figures: float) -> Trial:
    values = {"max_wer_increase": wer_increase, "flash_kib": 1000.0 - 50 * i, "wer": 0.09 + wer_increase, **figures}
    reason, excess = ("", 0.0) if status == "ok" else (f"too much of {i}", 0.01 * i)
    return Trial(f"m/search_{i}-hist64-5s/u85_256", f"search_{i}-hist64", status, reason, values, excess, True)


def chosen(found: list[Candidate]) -> list[str]:
    return [one.proposal.scheme for one in found]


def test_first_is_built_what_the_dev_split_allows_then_what_halves_the_rest():
    path = [candidate(i, wer_increase=0.002 * i) for i in range(1, 10)]
    budget = {"max_wer_increase": 0.0081, "flash_kib": None}
    assert chosen(select(path, [], budget, "flash_kib", 3)) == ["search_4", "search_7", "search_2"]
    # 4 is within the budget, 7 is not: what is left lies between.
    trials = [trial(4, 0.004), trial(2, 0.001), trial(7, 0.02, "over_budget")]
    assert set(chosen(select(path, trials, budget, "flash_kib", 3))) == {"search_5", "search_6"}
    trials += [trial(5, 0.02, "over_budget"), trial(6, 0.01, "failed")]
    assert select(path, trials, budget, "flash_kib", 3) == []


def test_words_lost_with_less_noise_than_a_good_program_has_bound_nothing():
    path = [candidate(i, wer_increase=0.004) for i in range(1, 10)]
    trials = [trial(2, 0.02, "over_budget"), trial(4, 0.001), trial(8, 0.02, "over_budget")]
    found = chosen(select(path, trials, {"max_wer_increase": 0.005}, "flash_kib", 9))
    assert set(found) == {"search_5", "search_6", "search_7"}


def test_a_size_that_is_predicted_above_the_budget_is_not_built():
    path = [candidate(i) for i in range(1, 10)]
    assert chosen(select(path, [], {"flash_kib": 651, "sram_kib": 408}, "wer", 2)) == ["search_7", "search_8"]


# ---------------------------------------------------------------- the result


def rounds() -> list[list[Proposal]]:
    return [[candidate(0).proposal], [candidate(1).proposal, candidate(2).proposal, candidate(3).proposal]]


def test_the_winner_is_the_least_within_the_budget(tmp_path):
    trials = [trial(0, 0.0), trial(1, 0.001), trial(2, 0.002), trial(3, 0.2, "over_budget")]
    found = result.result("id", trials, rounds(), "flash_kib", {"max_wer_increase": 0.005, "sram_kib": None}, 40)
    assert found["winner"]["variant"] == trials[2].variant and found["best_uniform"]["variant"] == trials[0].variant
    assert (found["vela_compilations"], found["budget"]) == (4, {"max_wer_increase": 0.005})
    result.write_table(tmp_path / "trials.csv", found)
    with (tmp_path / "trials.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["winner"] for row in rows] == ["True", "False", "False", "False"] and rows[3]["reason"] == "too much of 3"
    assert result.tags([found])[trials[2].variant] == {"earshot.search": "id", "earshot.winner_of": "id"}
    assert result.tags([found])[trials[3].variant]["earshot.winner_of"] == ""
    result.verdict([found])


def test_a_budget_that_no_trial_meets_is_told_with_the_closest():
    trials = [trial(3, 0.2, "over_budget"), trial(1, 0.1, "over_budget"), trial(2, 0.0, "failed")]
    found = result.result("id", trials, rounds(), "flash_kib", {}, 40)
    assert found["status"] == "over_budget" and found["winner"] is None
    assert found["closest"] == [trials[1].variant, trials[0].variant] and "too much of 1" in found["reason"]
    with pytest.raises(result.NothingFits, match="none of 3 trials"):
        result.verdict([found])


def metrics(folder: Path, scheme: str, flash_kib: float, reason: str | None = None) -> str:
    """The metrics.json of a trial; with `reason` the compiler could not take it."""
    made = content(f"{scheme}-hist64-5s", "u85_256", 0.095, reason)
    made["config"]["quant"]["scheme"] = scheme
    made["choices"]["quant"] = scheme if not scheme.startswith("search_") else "int8_pc"
    if reason is None:
        made["npu"]["flash_kib"] = flash_kib
    write_json(folder / f"{scheme}.json", made)
    return str(folder / f"{scheme}.json")


def test_the_stages_go_from_uniform_schemes_to_a_winner(tmp_path):
    """propose and search_result as the workflow calls them, on metrics.json of the uniform schemes and of candidates.

    The first that is built crashes in the compiler: a trial like others, after which another is built, and no error of the workflow.
    """
    run("propose", "round=0", "calibration=hist64", f"out={tmp_path}/round_0.json")
    assert [one["scheme"] for one in read_json(tmp_path / "round_0.json")["proposals"]] == ["int8_pc", "a8w4"]
    write_json(tmp_path / "candidates.json", {"compared": 9, "candidates": candidates.content([candidate(1), candidate(2)])})
    built = [metrics(tmp_path, "int8_pc", 1000.0), metrics(tmp_path, "a8w4", 1200.0)]
    words = ["search.batch=1", f"candidates={tmp_path}/candidates.json", "budget.max_wer_increase=0.006"]
    for number, crash in ((1, "Error: layer 7 | RuntimeError: no room"), (2, None)):
        measured = f"measured=[{','.join(built)}]"
        run("propose", f"round={number}", *words, "calibration=hist64", measured, f"out={tmp_path}/round_{number}.json")
        (proposed,) = read_json(tmp_path / f"round_{number}.json")["proposals"]
        built.append(metrics(tmp_path, proposed["scheme"], 900.0, crash))
    files = f"rounds=[{','.join(f'{tmp_path}/round_{number}.json' for number in range(3))}]"
    run("search_result", "id=m/s/t", *words[1:], files, f"measured=[{','.join(built)}]", f"out={tmp_path}")
    found = read_json(tmp_path / "result.json")
    assert found["winner"]["scheme"] == f"{proposed['scheme']}-hist64" and found["compared_in_pytorch"] == 9
    assert yaml.safe_load((tmp_path / "winner.yaml").read_text())["scheme"] == proposed["scheme"]
    (crashed,) = (one for one in found["trials"] if one["status"] == "failed")
    assert crashed["round"] == 1 and crashed["reason"].endswith("Error: layer 7 | RuntimeError: no room")
    report.write_csv(tmp_path / "variants.csv", report.rows([read_json(path) for path in built]))
    run("verdict", f"table={tmp_path}/variants.csv", f"searches=[{tmp_path}/result.json]")


# ---------------------------------------------------------------- the study


class Interrupted(Exception):
    pass


def test_an_interrupted_search_goes_on(tmp_path):
    """Nothing that was compared before the end is compared again, and the first mixtures are those that were asked for."""
    space = joint.Space(["a", "b", "c"], ["int8_pc", "a8w4"], ["hist64", "minmax64"])
    first = [({}, "hist64"), ({"a": "a8w4"}, "hist64")]
    compared: list[tuple[dict, str]] = []

    def measure(assignment: dict[str, str], calib: str) -> Point:
        if len(compared) == stop_at:
            raise Interrupted
        compared.append((assignment, calib))
        return Point(calib, assignment, 0.01 * len(assignment) + 0.001 * (calib == "minmax64"), 1.0)

    def explore(trials: int) -> list[Point]:
        return joint.explore(space, measure, lambda assignment: 10.0 - len(assignment), first, trials, 0, tmp_path / "state" / "study.db")

    stop_at = 4
    with pytest.raises(Interrupted):
        explore(12)
    stop_at = None
    found = explore(12)
    assert compared[:2] == first
    keys = [(tuple(sorted(assignment)), calib) for assignment, calib in compared]
    assert len(set(keys)) == len(keys) == len(found) <= 12
    assert len(explore(12)) == len(found) and len(keys) == len(compared), "a finished study compares nothing"
    with pytest.raises(ArtifactError, match="of other parts"):
        joint.explore(
            joint.Space(["z"], ["int8_pc", "a8w4"], ["hist64"]), measure, lambda a: 0.0, [], 1, 0, tmp_path / "state" / "study.db"
        )
    (tmp_path / "broken.db").write_text("not a database")
    with pytest.raises(ArtifactError, match="delete it"):
        joint.explore(space, measure, lambda a: 0.0, [], 1, 0, tmp_path / "broken.db")
