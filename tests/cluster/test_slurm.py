"""The workflow on a real Slurm: to its end, a training of two processes in it; a job killed for memory; a run cancelled."""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from one_node import CORES, SWEEP, TINY, TWO_PROCESSES
from running import SWEEP as ONE_SCHEME

from earshot import resources
from earshot.config import CONF_DIR
from earshot.files import read_json
from earshot.pipeline import Variant, variants

EVALUATED = {"evaluate_float", "evaluate_program", "evaluate_variant"}
SENT = {"corpus", "features", "tokenizer", "train", "quantize", "sensitivity", "tosa", "lower", *EVALUATED}
EPOCHS = 12  # of the training that is cancelled after two: enough to be cancelled in
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "OUT_OF_MEMORY", "TIMEOUT"}


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished workflow, to go on from."""
    return shutil.copytree(finished, tmp_path / "workflow")


def tiny(overrides: str) -> Variant:
    return variants({"overrides": " ".join([*TINY, overrides]), "sweep": ONE_SCHEME})[0]


def report(folder: Path) -> list[dict[str, str]]:
    """The rows of its table of variants."""
    with open(folder / "results" / "report" / "variants.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_variants_run_to_their_end(finished, slurm):
    asked = variants({"overrides": " ".join([*TINY, TWO_PROCESSES]), "sweep": SWEEP})
    assert {row["variant"] for row in report(finished)} == {variant.id for variant in asked}
    assert (finished / "results" / "report" / "verdict.json").exists()
    jobs = slurm.jobs(finished)
    assert {job.rule for job in jobs} == SENT
    assert len([job for job in jobs if job.rule == "lower"]) == len(asked) >= len(variants({}))  # the demo's size
    assert {job.state for job in jobs} == {"COMPLETED"}


def test_each_scheme_gives_a_program_with_its_figures(finished):
    rows, of_demo = report(finished), {variant.choices["quant"] for variant in variants({})}
    assert {re.split("[-+]", row["scheme"])[0] for row in rows} == {path.stem for path in CONF_DIR.glob("quant/*.yaml")} - of_demo
    for row in rows:
        assert row["status"] == "ok" and float(row["wer"]) >= 0 and float(row["pte_kib"]) > 0, row
        on_npu = not row["variant"].endswith("host")
        assert bool(row["npu_cycles"]) == on_npu, row
        float_tail = on_npu and row["scheme"].startswith("int8_float_out")
        assert (int(row["operators_cpu"] or 0) > 2) == float_tail, row  # two are the ends of a program


def test_each_step_asks_for_what_it_needs(finished, slurm):
    config = tiny(TWO_PROCESSES).config
    of_rule = {job.rule: job for job in slurm.jobs(finished)}
    for step in ("corpus", "lower", "tosa"):  # whose input has no hours
        asked = resources.request(step, config, [], 1)
        assert (of_rule[step].mem_mb, of_rule[step].minutes) == (asked.mem_mb, asked.minutes)
    assert of_rule["train"].mem_mb > 2 * of_rule["features"].mem_mb > 2 * of_rule["tokenizer"].mem_mb
    assert of_rule["corpus"].cores == of_rule["features"].cores == 2
    assert of_rule["evaluate_program"].cores == 1
    assert of_rule["evaluate_variant"].cores == CORES  # it is timed, and has the node for itself


def test_two_processes_train_in_one_job(finished, slurm):
    (job,) = (job for job in slurm.jobs(finished) if job.rule == "train" and job.gpus)
    assert (job.tasks, job.cores, job.gpus) == (1, 2, 2)
    (metrics,) = finished.glob("results/train/*/metrics.json")
    assert read_json(metrics)["throughput"]["processes"] == 2


def test_a_job_that_is_killed_for_memory_gets_more(copy, slurm):
    """A tokenizer that takes more than its first attempt asks for, and less than its second."""
    variant = tiny(TWO_PROCESSES)
    tokenizer = f"results/tokenizer/{variant.tokenizer}/tokenizer.model"
    first = resources.request("tokenizer", variant.config, [], 1).mem_mb
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent / "hungry"), os.environ.get("PYTHONPATH")]))
    hungry = {**os.environ, "PYTHONPATH": path, "EARSHOT_TEST_MB": str(round(1.05 * first))}
    process = slurm.begin(copy, tokenizer, "--forcerun", "tokenizer", environment=hungry, overrides=TWO_PROCESSES)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    killed, again = slurm.jobs(copy)
    assert (killed.rule, again.rule, again.state) == ("tokenizer", "tokenizer", "COMPLETED")
    assert killed.state in ENDED - {"COMPLETED"}
    assert math.isclose(killed.mem_mb, first, abs_tol=1) and math.isclose(again.mem_mb, 2 * first, abs_tol=2)
    assert again.minutes == pytest.approx(2 * killed.minutes, abs=1)
    assert (copy / tokenizer).exists()


def test_a_cancelled_run_goes_on(copy, slurm):
    overrides = f"train.epochs={EPOCHS}"
    variant = tiny(overrides)
    weights, log = f"results/train/{variant.model}/model.safetensors", copy / "results" / "logs" / "train" / f"{variant.model}.log"
    process = slurm.begin(copy, weights, overrides=overrides)
    wait_for(lambda: process.poll() is not None or (log.exists() and f"epoch 2/{EPOCHS}" in log.read_text()))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0, output
    wait_for(lambda: all(job.state in ENDED for job in slurm.jobs(copy)))
    assert [job.state for job in slurm.jobs(copy)] == ["CANCELLED"]
    assert not (copy / weights).exists()

    output, status = slurm.run(copy, weights, overrides=overrides)
    assert status == 0, output
    assert (copy / weights).exists()
    assert f"epoch 1/{EPOCHS}" not in log.read_text() and f"epoch {EPOCHS}/{EPOCHS}" in log.read_text()


def wait_for(happened, seconds: float = 3000) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.2)
