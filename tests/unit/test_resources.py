"""What steps ask a cluster for: more for larger models, more speech and later attempts; and enough for what the demo was seen to take."""

from __future__ import annotations

import csv
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from earshot import resources
from earshot.config import CONF_DIR, Model, register
from earshot.model.conformer import Conformer
from earshot.pipeline import variants

RESULTS = Path(os.environ.get("EARSHOT_RESULTS", Path(__file__).parents[2] / "results"))
TEST_CLEAN = [("results/corpus/test.cuts.jsonl.gz", 0.2), ("model.safetensors", 35.0)]  # megabytes


def config(**settings):
    return variants({"sweep": "quant=int8_pc", **settings})[0].config


SMALL, LARGE = config(), config(model="conformer_s")


@pytest.mark.parametrize("step", resources.STEPS)
def test_each_attempt_asks_for_more(step):
    step = step.removesuffix("_aware")
    first, second, third = (resources.request(step, SMALL, TEST_CLEAN, attempt) for attempt in (1, 2, 3))
    assert first.mem_mb < second.mem_mb < third.mem_mb
    assert first.minutes < second.minutes <= third.minutes


@pytest.mark.parametrize("step", ["quantize", "tosa", "lower", "evaluate_program", "evaluate_variant", "parity", "train"])
def test_a_larger_model_asks_for_more(step):
    small, large = (resources.request(step, values, TEST_CLEAN, 1) for values in (SMALL, LARGE))
    assert large.mem_mb > small.mem_mb and large.minutes > small.minutes


@pytest.mark.parametrize("step", ["features", "tokenizer", "train", "evaluate_program"])
def test_more_speech_asks_for_more(step):
    less, more = (resources.request(step, LARGE, [("train.cuts.jsonl.gz", megabytes)], 1) for megabytes in (1, 30))
    assert more.mem_mb > less.mem_mb and more.minutes > less.minutes


@pytest.mark.parametrize("step", ["evaluate_float", "evaluate_program"])
def test_each_process_that_recognizes_has_a_model_of_its_own(step):
    one, four = (resources.request(step, config(overrides=f"evaluation.jobs={jobs}"), TEST_CLEAN, 1) for jobs in (1, 4))
    assert four.mem_mb > 3 * one.mem_mb


def test_a_corpus_that_is_not_there_yet_counts_by_its_settings():
    spoken, downloaded = (resources.request("corpus", values, [], 1) for values in (SMALL, config(corpus="librispeech_960")))
    assert downloaded.mem_mb > spoken.mem_mb and downloaded.minutes > spoken.minutes


def test_files_are_looked_at_only_where_they_matter():
    def files():
        raise FileNotFoundError("not made yet")
        yield

    assert resources.request("tosa", SMALL, files(), 1).mem_mb
    with pytest.raises(FileNotFoundError):
        resources.request("features", SMALL, files(), 1)


def test_a_training_asks_for_all_its_processes():
    one, four = (config(overrides=f"train.accelerator=gpu train.data_workers=3 train.devices={n}") for n in (1, 4))
    assert [resources.gpus("train", values) for values in (one, four)] == [1, 4]
    assert [resources.threads("train", values) for values in (one, four)] == [4, 16]
    assert resources.request("train", four, [], 1).mem_mb == pytest.approx(4 * resources.request("train", one, [], 1).mem_mb, abs=4)
    assert resources.gpus("train", config(overrides="train.accelerator=cpu train.devices=4")) == resources.gpus("tosa", four) == 0


def test_a_step_has_a_core_for_each_of_its_processes():
    values = config(overrides="corpus.jobs=5 features.jobs=6 evaluation.jobs=7")
    steps = ("corpus", "features", "evaluate_float", "evaluate_program", "evaluate_variant", "tosa")
    assert [resources.threads(step, values) for step in steps] == [5, 6, 7, 7, 1, 1]


def test_quantization_aware_training_asks_for_more_than_rounding():
    plain, aware = (resources.request("quantize", config(sweep=f"quant={quant}"), [], 1) for quant in ("int8_pc", "int8_pc_qat"))
    assert aware.mem_mb > plain.mem_mb and aware.minutes > plain.minutes


def test_an_imported_model_counts_by_its_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(4_000_000))
    found = config(experiment="seed_checkpoint", checkpoint=str(tmp_path / "model.safetensors"), tokenizer="any.model")
    assert resources.parameters_m(found) == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml")))
def test_parameters_are_those_of_the_network_but_for_an_eighth(name):
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        model = Model(**compose("train", overrides=[f"model={name}"]).model)
    exact = sum(p.numel() for p in Conformer(model, 80, 128).parameters()) / 1e6
    assert 7 / 8 < resources.parameters_m({"imported": {"checkpoint": None}, "model": asdict(model)}) / exact < 1


def test_the_documentation_has_the_figures():
    def line(first, *slopes):
        return " + ".join([str(first), *(f"{slope:g} {unit}" for slope, unit in slopes if slope)])

    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    for name, step in resources.STEPS.items():
        memory = line(resources.SNAKEMAKE_MB + step.mem_mb, (step.mem_mb_per_m, "M"), (step.mem_mb_per_h, "h"))
        time = line(step.minutes, (step.minutes_per_m, "M"), (step.minutes_per_h, "h"), (step.minutes_per_m_h, "Mh"))
        assert f"| {name} | {memory} | {time} |" in text


@pytest.mark.skipif(not (RESULTS / "benchmarks").is_dir(), reason="no results/benchmarks: run `snakemake --cores all`")
def test_the_first_attempt_is_enough_for_what_was_measured():
    manifests = [(str(path), path.stat().st_size / 1e6) for path in RESULTS.glob("corpus/synth/*.cuts.jsonl.gz")]
    found = list((RESULTS / "benchmarks").glob("*/**/*.tsv"))
    assert found
    for path in found:
        step = path.relative_to(RESULTS / "benchmarks").parts[0]
        with open(path, newline="") as stream:
            (row,) = csv.DictReader(stream, delimiter="\t")
        asked = resources.request(step, SMALL, manifests, 1)
        assert float(row["max_rss"]) < asked.mem_mb - resources.SNAKEMAKE_MB, path
        assert float(row["cpu_time"]) < 60 * asked.minutes, path
