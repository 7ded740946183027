"""A results folder as the workflow leaves it: trained models, and variants with their metrics.json, made from plausible figures."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

from earshot import SCHEMA_VERSION, variant_metrics
from earshot.files import write_json

MODEL = "conformer_xs-synth"
VARIANTS = (
    ("fp32-hist64-5s", "host", 0.091),
    ("int8_pc-hist64-5s", "host", 0.094),
    ("int8_pt-hist64-5s", "host", 0.112),
    ("int8_pc-hist64-5s", "u85_256", 0.095),
    ("int8_pt-hist64-5s", "u85_256", 0.115),
    ("a16w8-hist64-5s", "u85_256", 0.0915),
)


def accuracy(wer: float, words: int = 2000) -> dict:
    errors = round(wer * words)
    substitutions, deletions = errors // 2, errors // 3
    return {
        "wer": errors / words,
        "cer": errors / words / 2,
        "hits": words - substitutions - deletions,
        "substitutions": substitutions,
        "deletions": deletions,
        "insertions": errors - substitutions - deletions,
        "words": words,
        "utterances": 300,
        "wer_ci95": [max(0.0, errors / words - 0.011), errors / words + 0.012],
    }


def parts(scheme: str, target: str, wer: float) -> tuple[dict, dict, dict, dict]:
    """Contents of float, program and variant evaluation and of lower.json."""
    float_model = {"status": "ok", "accuracy": {"float": accuracy(0.09), "float_full": accuracy(0.0895)}}
    program = {"status": "ok", "accuracy": {"quantized": accuracy(wer - 0.001)}}
    lowering = {"status": "ok", "target": target, "window_s": 5.0, "pte_bytes": 1_500_000, "lowering_s": 61.5, "peak_rss_mib": 2100.0}
    if target == "host":
        times = {"rtf_1_thread": 0.011, "rtf_all_threads": 0.007, "latency_ms_p50": 22.5, "latency_ms_p95": 27.0, "peak_rss_mib": 410.0}
        return float_model, program, {"status": "ok", "accuracy": {"host_pte": accuracy(wer)}, "host": times}, lowering
    wide = 1.26 if scheme.startswith("a16") else 1.0
    npu = {
        "cycles": int(5_200_000 * wide),
        "cycles_sram": 1_000_000,
        "clock_hz": 500_000_000,
        "latency_ms": 10.4 * wide,
        "rtf": 0.00208 * wide,
        "sram_kib": 610.0 * (2 if wide > 1 else 1),
        "flash_kib": 1210.0,
        "macs": 240_000_000,
        "operators_npu": {"CONV_2D": 61, "MATMUL": 12},
        "operators_cpu": {},
    }
    to_quantized = {"wer_difference_to_quantized": 0.001, "wer_difference_ci95_to_quantized": [-0.002, 0.004]}
    # Once for all targets of the family, hence no evaluation of the variant.
    program["accuracy"]["integer_graph"] = accuracy(wer) | to_quantized
    return float_model, program, {}, {**lowering, "npu": npu}


def family(target: str) -> str:
    return "host" if target == "host" else "u85"


def ladder(scheme: str, target: str) -> dict:
    """Content of a parity.json, as far as metrics.json takes it."""
    rungs = {"exported": 118.2, "quantized": 28.4, "integer_graph" if target != "host" else "host_pte": 27.9}
    if scheme.startswith("fp32"):
        rungs.pop("quantized")
    figures = {name: {"sqnr_db": sqnr_db, "cosine": 0.999, "argmax_agreement": 0.991} for name, sqnr_db in rungs.items()}
    departs = {"module": "blocks.1.self_attention", "operator": "neg", "cause": {"operator": "neg"}}
    return {"rungs": {"float": {}, **figures}, "depth": {"departs": departs if target != "host" else None}}


def content(scheme: str, target: str, wer: float, reason: str | None = None, model: str = MODEL) -> dict:
    """Content of a metrics.json; with `reason` the lowering failed."""
    float_model, program, variant, lowering = parts(scheme, target, wer)
    if reason is not None:
        lowering = {"status": "failed", "reason": reason, "target": target}
        program["accuracy"].pop("integer_graph", None)
        variant = dict(lowering) if target == "host" else {}
    evaluations = {"float": float_model, "program": program, **({"variant": variant} if variant else {})}
    identity = {"model": model, "variant": f"{model}/{scheme}/{target}", "target": target, "corpus": "synth", "split": "test"}
    quant = scheme.split("-")[0]
    return variant_metrics.merge(
        identity,
        lowering,
        evaluations,
        choices={"model": "conformer_xs", "corpus": "synth", "quant": quant, "calib": "hist64", "window": "5s", "target": target},
        config={
            "quant": {"scheme": quant, "quantize": quant != "fp32", "weight_bits": 8, "families": ["u85", "host"], "from_program": None},
            "calib": {"utterances": 64, "observer": "histogram", "seed": 0},
            "window": {"seconds": 5.0, "overlap_s": 1.5},
            "target": {"name": target, "family": family(target)},
        },
        ladder=ladder(scheme, target),
    )


def write_variant(results: Path, scheme: str, target: str, wer: float, reason: str | None = None, model: str = MODEL) -> Path:
    """A variant's folder with metrics.json, lower.json, utterances and program; returns the path of metrics.json."""
    folder = results / "variants" / model / scheme / target
    write_json(folder / "metrics.json", content(scheme, target, wer, reason, model))
    write_json(folder / "lower.json", {"status": "failed" if reason else "ok", "target": target})
    evaluated = folder if target == "host" else results / "programs" / model / scheme / "u85"
    evaluated.mkdir(parents=True, exist_ok=True)
    (evaluated / "evaluation.utterances.csv").write_text("id,duration_s,reference,hypothesis\nu1,2.5,TURN ON,TURN ON\n")
    write_json(results / "programs" / model / scheme / family(target) / "parity.json", ladder(scheme, target))
    if reason is None:
        (folder / "model.pte").write_bytes(b"program" * 100)
    return folder / "metrics.json"


def write_model(results: Path, epochs: int = 12, model: str = MODEL, lr: float = 0.002) -> Path:
    """A model's folder with configuration, summary and curves; returns it."""
    folder = results / "train" / model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"model:\n  dim: 96\n  layers: 4\ntrain:\n  lr: {lr}\n  epochs: {epochs}\n")
    rows = [
        {"epoch": epoch, "step": 40 * (epoch + 1), "train_loss": f"{90 / (epoch + 1):.6g}", "dev_wer": f"{1 / (epoch + 1):.6g}"}
        for epoch in range(epochs)
    ]
    with (folder / "curves.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    throughput = {"audio_s_per_s": 118.6, "step_s": {"data": 0.005, "forward": 0.031, "backward": 0.052}}
    summary = {"parameters": 1_060_000, "epochs": epochs, "dev_wer": 1 / epochs, "training_s": 200.5, "throughput": throughput}
    write_json(folder / "metrics.json", summary)
    return folder


def write_results(results: Path) -> list[Path]:
    write_model(results)
    return [write_variant(results, *variant) for variant in VARIANTS]


def run_stage(name: str, *words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a stage as the workflow does."""
    command = [sys.executable, "-m", f"earshot.stages.{name}", *words]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600)


def schema_version(values: dict) -> dict:
    return {"schema_version": SCHEMA_VERSION, **values}
