"""A search as the workflow plans it: in rounds of ordinary variants, from where an interrupted one stopped."""

from __future__ import annotations

from running import jobs, snakemake

from earshot.files import write_json

SWEEP = "quant=int8_pc window=4s target=u85_256"
WORDS = "search.schemes=[int8_pc] search.rounds=1 calib.utterances=4"


def test_a_search_starts_with_the_sensitivity_table_and_trains_nothing(finished):
    planned = jobs(snakemake(finished, "--dry-run", overrides=WORDS, sweep=SWEEP, search="greedy"))
    assert {"sensitivity", "propose", "search", "search_result", "report", "track", "verdict"} <= planned
    assert not planned & {"corpus", "features", "tokenizer", "train", "quantize"}, "the uniform scheme is the variant that is there"


def test_the_report_and_mlflow_are_given_what_was_found(finished):
    """Without a search they are given nothing."""
    for search, tables, results in (("greedy", 1, 1), ("sensitivity", 1, 0), ("none", 0, 0)):
        planned = snakemake(finished, "--dry-run", "--printshellcmds", "--forcerun", "report", overrides=WORDS, sweep=SWEEP, search=search)
        commands = [line for line in planned.stdout.splitlines() if "earshot.stages.report" in line or "earshot.stages.track" in line]
        assert len(commands) == 2
        assert {(line.count("/sensitivity.svg"), line.count("/result.json")) for line in commands} == {(tables, results)}


def test_an_interrupted_search_goes_on_with_the_programs_that_it_had_proposed(finished):
    """Killed after its first round was proposed: only what that names is built, and nothing is compared again."""
    (variant,) = finished.glob("results/variants/*/*/u85_256")
    model, scheme = variant.parts[-3:-1]
    of_table = scheme.removeprefix("int8_pc-")
    table = finished / "results" / "sensitivity" / model / f"standard-{of_table}" / "u85"
    table.mkdir(parents=True)
    for name in ("sensitivity.json", "sensitivity.csv", "sensitivity.svg"):
        (table / name).touch()
    search = finished / "results" / "search" / model / f"greedy+rounds=1+schemes=int8_pc-none-{of_table}" / "u85_256"
    uniform = {"quant": "int8_pc", "calib": "hist64", "scheme": "int8_pc", "parts": [], "families": []}
    part = {"modules": "output", "quantize": True, "weight_bits": 4, "activation_bits": 8, "per_channel": True, "dynamic": False}
    mixed = {**uniform, "scheme": "search_0123abcd", "parts": [part], "families": ["u85"]}
    write_json(search / "round_0.json", {"proposals": [uniform]})
    write_json(search / "candidates.json", {"candidates": []})
    write_json(search / "round_1.json", {"proposals": [mixed]})
    planned = snakemake(finished, "--dry-run", overrides=WORDS, sweep=SWEEP, search="greedy")
    assert {"quantize", "tosa", "lower", "evaluate_program", "metrics", "search_result"} <= jobs(planned)
    assert not jobs(planned) & {"sensitivity", "search", "propose", "train"}
    assert f"{model}/search_0123abcd-{of_table}/u85_256" in planned.stdout
