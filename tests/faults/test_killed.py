"""SIGKILL at random moments of every step, to Snakemake and all its jobs: a plain run then ends with what it would have ended with."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import mlflow
import pytest
from running import snakemake
from workflows import Running, digests, figures

from earshot.files import read_json

# Rules whose first job is then under way: each step of the workflow at least once, those that take long more often. Twenty moments.
MOMENTS = [
    *("corpus", "corpus", "features", "features", "tokenizer", "train", "train", "train", "evaluate_float", "quantize", "quantize"),
    *("tosa", "tosa", "evaluate_program", "lower", "evaluate_variant", "parity", "metrics", "report", "track"),
]
SHORTEST_S = 0.5  # of those that have no benchmark file
OTHER_HASHES = {"PYTHONHASHSEED": "2"}  # than those of the run that it is compared with
TRIES = 6  # for a moment: a machine that is less busy than when a step was timed may be done with it before, and then it has a new time


def seconds_of(rule: str, *directories: Path) -> float:
    """How long the shortest job of a rule has taken in the runs of these directories."""
    files = [path for directory in directories for path in (directory / "results" / "benchmarks" / rule).rglob("*.tsv")]
    return min((float(path.read_text().splitlines()[1].split("\t")[0]) for path in files), default=SHORTEST_S)


@pytest.mark.slow
@pytest.mark.xdist_group("killed")  # beside the others
@pytest.mark.timeout(7200)
def test_killed_at_twenty_moments_it_ends_the_same(whole, tmp_path):
    chance, options = random.Random(6), []
    for rule in MOMENTS:
        for _ in range(TRIES):
            moment_s = chance.random() * seconds_of(rule, whole, tmp_path)
            # This rule, also where it was over before the last moment, and no further: those that follow it are left to be killed in.
            hit = Running(tmp_path, "--until", rule, "--forcerun", rule, *options, environment=OTHER_HASHES).kill_after(rule, moment_s)
            print(f"{time.strftime('%H:%M:%S')} {rule}: {'killed' if hit else 'over before'} {moment_s:.1f} s", flush=True)
            if hit:
                break
        assert hit, f"{rule}: over before its moment, {TRIES} times"
        if not options:
            told = snakemake(tmp_path, check=False).stdout
            assert "cannot be locked" in told and "--unlock" in told, told
            snakemake(tmp_path, "--unlock")
            options = ["--nolock"]  # the same, in half of the time
    snakemake(tmp_path)
    assert figures(tmp_path) == figures(whole)
    found, wanted = digests(tmp_path), digests(whole)
    assert found.keys() == wanted.keys()
    assert not [name for name in wanted if found[name] != wanted[name]]
    assert "Nothing to be done" in snakemake(tmp_path).stdout


# The fewest wrong words in a flash that is a little too small for int8_pc: whatever a tiny model says, a mixture is built.
SEARCH = {
    "search": "greedy",
    "sweep": "quant=int8_pc window=4s target=u85_256",
    "parity": "off",
    "overrides": "search.objective=wer search.rounds=1 search.batch=1 search.dev_utterances=1 budget.flash_kib=30.5"
    " sensitivity.schemes=[int8_pc,a8w4] sensitivity.utterances=1 sensitivity.dev_utterances=1",
}


def found_in(directory: Path, name: str) -> list[Path]:
    return list(directory.glob(f"results/s*/*/*/*/{name}"))


@pytest.mark.slow
@pytest.mark.xdist_group("killed_search")  # beside the others
@pytest.mark.timeout(7200)
def test_a_killed_search_ends_with_the_same_winner(whole, tmp_path):
    """Killed while it finds out what each part costs, and while the mixture is compiled that it proposed."""
    of_others = shutil.ignore_patterns("mlflow.db*", "mlartifacts")  # the runs of `whole`, and where their files are
    alone, killed = (shutil.copytree(whole, tmp_path / name, symlinks=True, ignore=of_others) for name in ("alone", "killed"))
    snakemake(alone, tracking="off", **SEARCH)
    early = {rule: seconds_of(rule, alone) / 4 for rule in ("sensitivity", "lower")}  # also where the machine is less busy by now
    assert Running(killed, environment=OTHER_HASHES, **SEARCH).kill_after("sensitivity", early["sensitivity"])
    assert not found_in(killed, "sensitivity.json")
    snakemake(killed, "--unlock", **SEARCH)
    again = Running(killed, environment=OTHER_HASHES, **SEARCH)
    assert again.began("search") and again.kill_after("lower", early["lower"])
    assert found_in(killed, "round_1.json") and not found_in(killed, "result.json")
    snakemake(killed, "--unlock", **SEARCH)
    snakemake(killed, **SEARCH)
    (found,), (wanted,) = (map(read_json, found_in(directory, "result.json")) for directory in (killed, alone))
    assert found == wanted and found["winner"]
    assert [(trial["round"], trial["status"]) for trial in found["trials"]] == [(0, "over_budget"), (0, "ok"), (1, "ok")]
    tracked = read_json(killed / "results" / "report" / "tracked.json")
    (model,) = tracked["models"].values()
    of_model = f"tags.mlflow.parentRunId = '{model['run_id']}'"
    children = mlflow.MlflowClient(f"sqlite:///{killed}/results/mlflow.db").search_runs([tracked["experiment_id"]], of_model)
    won = {child.data.tags["earshot.id"]: child.data.tags["earshot.winner_of"] for child in children}
    assert len(children) == 3
    assert won == {trial["variant"]: found["search"] if trial["variant"] == found["winner"]["variant"] else "" for trial in found["trials"]}
