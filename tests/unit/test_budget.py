"""Budgets: what is over one is a row that names figure and limit, and where nothing is within, the closest are told."""

from __future__ import annotations

import pytest
from stage_command import run
from variants_on_disk import content, parts, schema_version

from earshot import report, variant_metrics
from earshot.files import read_json, write_json

IDENTITY = {"model": "m", "variant": "m/int8_pc-hist64-5s/u85_256", "target": "u85_256", "corpus": "synth", "split": "test"}


def merged(budget: dict, **lowered) -> dict:
    """The metrics.json of a variant with WER 0.1 (float 0.09), 610 KiB of SRAM, 1210 of flash, 10.4 ms, a .pte of 1,500,000 bytes."""
    float_model, program, _, lowering = parts("int8_pc", "u85_256", 0.1)
    evaluations = {"float": float_model, "program": program}
    return variant_metrics.merge(IDENTITY, {**lowering, **lowered}, evaluations, choices={}, config={"budget": budget})


@pytest.mark.parametrize(
    ("figure", "above", "within", "named"),
    [
        ("max_wer_increase", 0.009, 0.01, "WER is 1 percentage points above float, budget.max_wer_increase=0.009"),
        ("sram_kib", 609, 610, "SRAM is 610 KiB, budget.sram_kib=609"),
        ("flash_kib", 1024, 1210, "flash is 1210 KiB, budget.flash_kib=1024"),
        ("latency_ms", 10, 10.4, "latency is 10.4 ms, budget.latency_ms=10"),
        ("pte_bytes", 1_000_000, 1_500_000, "the .pte has 1500000 bytes, budget.pte_bytes=1000000"),
    ],
)
def test_a_figure_above_its_budget_is_named_with_it(figure, above, within, named):
    over = merged({figure: above})
    assert over["status"] == "over_budget" and named in over["reason"]
    assert over["budget"]["exceeded"][figure]["limit"] == above
    variant_metrics.validate(schema_version(over), "metrics.json")
    good = merged({figure: within, "sram_kib": None} if figure != "sram_kib" else {figure: within})
    assert good["status"] == "ok" and "budget" not in good and "reason" not in good


def test_all_that_is_exceeded_is_named_also_beside_the_target_s_own_memory():
    over = merged({"flash_kib": 605, "sram_kib": 512}, status="over_budget", reason="needs 610 KiB")
    assert over["status"] == "over_budget"
    assert all(words in over["reason"] for words in ("lowering: needs 610 KiB", "budget.flash_kib=605", "budget.sram_kib=512"))
    assert over["budget"]["excess"] == 1.0, "flash is twice what is allowed"


def test_what_failed_or_has_no_such_figure_is_not_judged_by_the_budget():
    failed = merged({"flash_kib": 1}, status="failed", reason="no")
    assert (failed["status"], failed["reason"]) == ("failed", "lowering: no")
    host = content("int8_pc-hist64-5s", "host", 0.1)
    assert variant_metrics.budget_figures(host).keys() == {"max_wer_increase", "latency_ms", "pte_bytes"}


def test_the_stage_gates_by_the_budget_of_the_configuration(tmp_path):
    for name, part in zip(("float", "program", "variant", "lower"), parts("int8_pc", "u85_256", 0.1), strict=True):
        write_json(tmp_path / f"{name}.json", part)
    files = [f"{name}_json={tmp_path}/{name}.json" for name in ("float", "program", "lower")]
    words = ["variant=m/s/u85_256", "corpus_id=synth", "choices={quant: int8_pc}", "config={budget: {flash_kib: 1024}}"]
    run("metrics", *words, *files, f"out={tmp_path}/metrics.json")
    assert read_json(tmp_path / "metrics.json")["status"] == "over_budget"


def test_a_budget_that_no_variant_meets_names_the_closest(tmp_path):
    def told(*rows: dict) -> str:
        report.write_csv(tmp_path / "variants.csv", [{"model": "m", "target": "t", **row} for row in rows])
        with pytest.raises(SystemExit) as ending:
            run("verdict", f"table={tmp_path}/variants.csv")
        return str(ending.value.code)

    far, near = (
        {"variant": name, "status": "over_budget", "reason": "flash", "budget_excess": by} for name, by in (("F", 0.8), ("N", 0.05))
    )
    failed = {"variant": "X", "status": "failed", "reason": "no"}
    assert "no variant meets the budget; closest: N, F" in told(far, near, failed)
    assert "closest" not in told(far, {"variant": "G", "status": "ok"})


def test_the_table_says_how_far_over_the_budget_a_variant_is():
    row = report.row(merged({"flash_kib": 605}) | {"schema_version": 1})
    assert row["budget_excess"] == 1.0
    assert report.rows([merged({"flash_kib": 605})])[0]["status"] == "over_budget"
