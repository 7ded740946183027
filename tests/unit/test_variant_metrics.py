"""metrics.json: what it is merged from, what its schema takes, and the stage that writes it."""

from __future__ import annotations

import json

import pytest
from variants_on_disk import content, parts, run_stage, schema_version

from earshot import variant_metrics
from earshot.errors import ArtifactError
from earshot.files import read_json, write_json


def test_what_does_not_apply_is_absent():
    npu = content("int8_pc-hist64-5s", "u85_256", 0.1)
    host = content("fp32-hist64-5s", "host", 0.1)
    assert "host" not in npu and set(npu["accuracy"]) == {"float", "float_full", "quantized", "integer_graph"}
    assert "npu" not in host and set(host["accuracy"]) == {"float", "float_full", "host_pte"}, "fp32 has no quantized program"
    assert npu["npu"]["operators_cpu"] == {}, "no operator on the CPU is a figure"
    assert npu["parity"]["departs"] == {"module": "blocks.1.self_attention", "operator": "neg"} and "departs" not in host["parity"]
    assert None not in npu.values() and npu["config"]["quant"]["from_program"] is None


def test_failed_lowering_keeps_what_is_known():
    failed = content("int8_pc-hist64-5s", "u85_256", 0.1, reason="SRAM exceeded")
    assert (failed["status"], failed["reason"]) == ("failed", "lowering: SRAM exceeded")
    assert set(failed["accuracy"]) == {"float", "float_full", "quantized"} and failed["window_s"] == 5.0
    assert not {"npu", "pte_bytes", "lowering_s"} & failed.keys()
    variant_metrics.validate(schema_version(failed), "metrics.json")


def test_a_program_above_the_budget_is_told_and_keeps_its_figures():
    float_model, program, _, lowering = parts("int8_pc", "u85_256", 0.1)
    lowering |= {"status": "over_budget", "reason": "needs 610 KiB, 512 KiB are allowed"}
    identity = {"model": "m", "variant": "m/s/u85_256", "target": "u85_256", "corpus": "synth", "split": "test"}
    found = variant_metrics.merge(identity, lowering, {"float": float_model, "program": program}, choices={}, config={})
    assert (found["status"], found["reason"]) == ("over_budget", "lowering: needs 610 KiB, 512 KiB are allowed")
    assert found["npu"]["sram_kib"] == 610.0 and "integer_graph" in found["accuracy"]
    variant_metrics.validate(schema_version(found), "metrics.json")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda m: m["accuracy"]["integer_graph"].update(wer="9.5%"), "$.accuracy.integer_graph.wer"),
        (lambda m: m["accuracy"]["float"].update(wer=float("nan")), "$.accuracy.float.wer"),
        (lambda m: m["npu"].update(sram_kib=None), "$.npu.sram_kib"),
        (lambda m: m["npu"].update(cycles=0), "$.npu.cycles"),
        (lambda m: m.update(pte_bytes=1.5), "$.pte_bytes"),
        (lambda m: m.update(status="failed"), "'reason' is a required property"),
        (lambda m: m.update(wer=0.1), "'wer' was unexpected"),
        (lambda m: m["parity"]["quantized"].pop("cosine"), "$.parity.quantized"),
    ],
)
def test_schema_names_the_offending_key(tmp_path, change, where):
    good = content("int8_pc-hist64-5s", "u85_256", 0.1)
    path = tmp_path / "metrics.json"
    write_json(path, good)
    assert variant_metrics.read(path)["variant"] == good["variant"]
    change(good)
    write_json(path, good)
    with pytest.raises(ArtifactError) as raised:
        variant_metrics.read(path)
    assert where in str(raised.value) and str(path) in str(raised.value)


def test_figures_are_those_of_what_the_device_runs():
    figures = variant_metrics.figures(content("int8_pc-hist64-5s", "u85_256", 0.1))
    assert (figures["wer"], figures["wer_quantized"], figures["wer_float"]) == (0.1, 0.099, 0.09)
    assert (figures["sram_kib"], figures["operators_npu"], figures["operators_cpu"]) == (610.0, 73, 0)
    assert figures["parity.integer_graph.sqnr_db"] == 27.9 and figures["parity.quantized.argmax_agreement"] == 0.991
    assert figures["npu_latency_ms"] == 10.4 and figures["pte_kib"] == 1_500_000 / 1024 and "rtf_1_thread" not in figures
    host = variant_metrics.figures(content("int8_pc-hist64-5s", "host", 0.2))
    assert host["wer"] == 0.2 and host["rtf_1_thread"] == 0.011 and "npu_cycles" not in host
    failed = variant_metrics.figures(content("int8_pc-hist64-5s", "host", 0.2, reason="no"))
    assert "wer" not in failed and failed["wer_quantized"] == 0.199


def test_stage_writes_and_refuses(tmp_path):
    names = ("float", "program", "variant", "lower")
    for name, part in zip(names, parts("int8_pc", "u85_256", 0.1), strict=True):
        write_json(tmp_path / f"{name}.json", part | {"environment": {"torch": name}})
    (tmp_path / "config.yaml").write_text("quant: {scheme: int8_pc, quantize: true}\nurl: 'sqlite:///a=b'\n")
    words = ["variant='m/s+calib.n=8/u85_256'", "corpus_id=synth", "choices={quant: int8_pc, calib: 'hist64'}"]
    words += (
        [f"{name}_json={tmp_path / name}.json" for name in names if name != "variant"]
        + ["variant_json="]
        + [
            f"config={tmp_path / 'config.yaml'}",
            f"out={tmp_path / 'metrics.json'}",
        ]
    )
    done = run_stage("metrics", *words)
    assert done.returncode == 0, done.stderr
    written = variant_metrics.read(tmp_path / "metrics.json")
    assert (written["model"], written["target"], written["corpus"]) == ("m", "u85_256", "synth")
    assert written["choices"] == {"quant": "int8_pc", "calib": "hist64"} and written["config"]["url"] == "sqlite:///a=b"
    assert written["accuracy"]["integer_graph"]["wer"] == 0.1 and written["npu"]["flash_kib"] == 1210.0

    beside = read_json(tmp_path / "environment.json")
    assert beside["lowering"] == {"torch": "lower"} and beside["metrics"]["torch"] and beside["metrics"]["processor"]
    assert "environment" not in written, "what MLflow and Snakemake compare depends on no machine"

    assert "wer_difference" not in written["accuracy"]["integer_graph"], "there are no tables of utterances"

    unknown = run_stage("metrics", *words, f"program_json={tmp_path}/float.json")
    assert unknown.returncode == 1 and "add program_json=FILE" in unknown.stderr, "the integer graph was not evaluated"

    broken = read_json(tmp_path / "lower.json")
    broken["npu"]["cycles"] = "many"
    (tmp_path / "lower.json").write_text(json.dumps(broken))
    (tmp_path / "metrics.json").unlink()
    refused = run_stage("metrics", *words)
    assert refused.returncode == 1 and "$.npu.cycles" in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "metrics.json").exists()
