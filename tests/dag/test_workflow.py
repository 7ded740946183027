"""The workflow from end to end: what it leaves, that it runs again only where it must, and that a failed variant is a row."""

from __future__ import annotations

import csv
import json
import re
import shutil
import socket
import sqlite3

import mlflow
import pandas
import pytest
import stage_command
from counted_arpa import write_arpa
from running import ROOT, SWEEP, TINY, jobs, snakemake

from earshot.budget import number
from earshot.config import Decode, Window
from earshot.corpus.manifest import load_cuts
from earshot.decoders import Decoder
from earshot.pipeline import variants
from earshot.transcribe import open_program, read_any


def variant_dirs(directory):
    return {path.parent.name: path.parent for path in (directory / "results" / "variants").glob("*/*/*/metrics.json")}


def test_every_variant_has_its_figures(finished):
    variants = variant_dirs(finished)
    assert set(variants) == {"host", "u85_256"}
    npu = json.loads((variants["u85_256"] / "metrics.json").read_text())
    host = json.loads((variants["host"] / "metrics.json").read_text())
    assert npu["status"] == host["status"] == "ok"
    assert set(npu["accuracy"]) >= {"float", "quantized", "integer_graph"}
    assert set(host["accuracy"]) >= {"float", "quantized", "host_pte"}
    assert npu["npu"]["cycles"] > 0 and npu["npu"]["sram_kib"] > 0
    assert host["host"]["rtf_1_thread"] > 0
    assert set(npu["parity"]) - {"departs"} == {"exported", "quantized", "integer_graph"}
    assert set(host["parity"]) == {"exported", "quantized", "host_pte"}
    for metrics in (npu, host):
        assert metrics["pte_bytes"] == (variants[metrics["target"]] / "model.pte").stat().st_size


def test_the_device_bundle_is_complete(finished):
    bundle = variant_dirs(finished)["u85_256"]
    names = {path.name for path in bundle.rglob("*") if path.is_file()}
    assert {
        "model.pte",
        "tokenizer.pieces",
        "front_end.json",
        "front_end.c",
        "graph.tosa",
        "README.md",
        "vela_summary.csv",
        "vela_per_layer.csv",
    } <= names


def test_the_table_has_a_row_for_each_variant(finished):
    with open(finished / "results" / "report" / "variants.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["target"] for row in rows} == {"host", "u85_256"}


def test_an_export_is_made_only_where_it_is_asked_for(finished):
    assert jobs(snakemake(finished, "--dry-run", "export")) == {"export", "export_model"}
    assert not (finished / "results" / "export").exists()


@pytest.mark.slow
def test_an_export_is_of_the_trained_model(finished):
    snakemake(finished, "export", overrides="export.formats=[safetensors,torchscript]")
    (report,) = finished.glob("results/export/*/*/export.json")
    content = json.loads(report.read_text())
    assert {name: one["status"] for name, one in content["formats"].items()} == {"safetensors": "ok", "torchscript": "ok"}
    assert content["golden"].endswith("golden.npz") and (report.parent / "tokenizer.model").is_file()


def test_each_variant_is_one_run_in_mlflow(finished):
    with sqlite3.connect(finished / "results" / "mlflow.db") as store:
        names = [name for (name,) in store.execute("select name from runs where lifecycle_stage = 'active'")]
    assert len(names) == 3  # the model and its two variants
    assert len(set(names)) == 3


def test_the_metrics_name_the_values_that_they_come_from(finished):
    metrics = json.loads((variant_dirs(finished)["host"] / "metrics.json").read_text())
    assert metrics["choices"]["quant"] == "int8_pc"
    assert metrics["config"]["train"]["epochs"] == 2


def test_a_second_run_does_nothing(finished):
    assert "Nothing to be done" in snakemake(finished).stdout


def test_decodings_are_evaluated_beside_each_other_and_nothing_else_runs(finished):
    (finished / "my.arpa").touch()
    sweep = "quant=int8_pc window=4s target=host,u85_256 decode=greedy,beam,lm decode.blank_penalty=0.0,0.5"
    again = jobs(snakemake(finished, "--dry-run", sweep=sweep, overrides="decode.lm=my.arpa"))
    evaluated = {"evaluate_float", "evaluate_program", "evaluate_variant", "metrics"}
    assert again == {"lexicon", *evaluated, "report", "track", "variants_list", "verdict"}


def test_words_are_found_with_a_language_model_of_ones_own(finished):
    """The lexicon is made, and the float model decoded with it: all that it writes is in the lexicon."""
    transcripts = [cut.supervisions[0].text for cut in load_cuts(next(finished.glob("results/corpus/*/train.cuts.jsonl.gz")))]
    write_arpa(finished / "words.arpa", transcripts)
    overrides = "decode=lm decode.lm=words.arpa"
    (variant, *_) = variants({"overrides": " ".join([*TINY, overrides]), "sweep": SWEEP})
    report = f"results/train/{variant.model}/evaluation{variant.decoding}/{variant.window}.json"
    snakemake(finished, report, overrides=overrides)
    (lexicon,) = finished.glob("results/lexicon/*/*.txt")
    known = {line.split()[0] for line in lexicon.read_text().splitlines()}
    assert known == {word for text in transcripts for word in text.split()}
    lines = (finished / report).with_suffix(".utterances.jsonl").read_text().splitlines()
    written = [word for line in lines for word in json.loads(line)["hypothesis"].split()]
    assert len(lines) > 3 and set(written) <= known


def test_without_a_ladder_there_is_no_job_for_it(finished):
    again = jobs(snakemake(finished, "--dry-run", parity="off"))
    assert "metrics" in again and "parity" not in again


def test_another_scheme_trains_nothing(finished):
    again = jobs(snakemake(finished, "--dry-run", sweep="quant=int8_pc,int8_pt window=4s target=host"))
    assert "quantize" in again
    assert not again & {"corpus", "features", "tokenizer", "train"}


def test_another_experiment_trains_nothing(finished):
    again = jobs(snakemake(finished, "--dry-run", overrides="experiment_name=another"))
    assert "track" in again
    assert not again & {"corpus", "features", "tokenizer", "train", "quantize", "evaluate_float"}


def test_the_report_is_headed_by_the_name_of_the_experiment(finished):
    """Also by one with braces, which mean something to Snakemake and to Hydra."""
    snakemake(finished, "--until", "report", overrides="""experiment_name="'{a} b{c}'" """)
    assert "<h1>{a} b{c}</h1>" in (finished / "results" / "report" / "report.html").read_text()


def test_a_checkpoint_is_imported_instead_of_trained(finished, tmp_path):
    files = {"checkpoint": tmp_path / "model.pt", "tokenizer": tmp_path / "tokenizer.model"}
    for path in files.values():
        path.touch()
    again = jobs(snakemake(finished, "--dry-run", **files))
    assert {"import_checkpoint", "quantize", "lower", "evaluate_float", "evaluate_program", "evaluate_variant", "track"} <= again
    assert not again & {"corpus", "features", "tokenizer", "train"}


def test_another_target_of_a_family_is_compiled_from_the_same_graph(finished):
    again = jobs(snakemake(finished, "--dry-run", sweep="quant=int8_pc window=4s target=host,u85_256,u85_512"))
    assert again == {"lower", "metrics", "report", "track", "variants_list", "verdict"}


def test_another_budget_builds_nothing(finished):
    again = jobs(snakemake(finished, "--dry-run", overrides="budget.flash_kib=10"))
    assert again - {"variants_list"} == {"metrics", "report", "track", "verdict"}  # the list: where a test before had other variants


def test_the_words_of_a_file_are_printed(finished, capsys):
    audio = next((finished / "results" / "corpus").rglob("*.flac"))
    for variant in variant_dirs(finished).values():
        stage_command.run("transcribe", f"program={variant / 'model.pte'}", f"audio={audio}")
        assert capsys.readouterr().out.endswith("\n")


def test_the_registered_models_say_what_the_programs_say(finished, monkeypatch):
    uri = f"sqlite:///{finished}/results/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = mlflow.MlflowClient(uri)
    (registered,) = client.search_registered_models()
    assert set(registered.aliases) == {"winner"}
    audio = next((finished / "results" / "corpus").rglob("*.flac"))
    versions = client.search_model_versions(f"name = '{registered.name}'")
    assert {version.tags["earshot.variant"].rpartition("/")[2] for version in versions} == {"host", "u85_256"}
    for version in versions:
        model = mlflow.pyfunc.load_model(f"models:/{registered.name}/{version.version}")
        form = open_program(str(finished / "results" / "variants" / version.tags["earshot.variant"]), Window())
        said = form.recognize(form.front_end(read_any(str(audio))), Decoder(form.pieces, Decode()))[0].text
        assert list(model.predict(pandas.DataFrame({"audio": [audio.read_bytes()]})).words) == [said]
        assert isinstance(model.predict(model.input_example).words[0], str)
        with pytest.raises(mlflow.exceptions.MlflowException, match="row 0: the file: cannot be read as audio"):
            model.predict(pandas.DataFrame({"audio": [b"no audio"]}))


def failed_row(finished, sweep: str, overrides: str) -> dict[str, str]:
    """The row of a variant that is no success, for which the run ends with an error that names it."""
    done = snakemake(finished, overrides=overrides, sweep=sweep, check=False)
    assert done.returncode != 0
    with open(finished / "results" / "report" / "variants.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["variant"] in done.stdout
    return row


def test_a_variant_that_needs_more_memory_than_its_target_has_is_a_row(finished):
    row = failed_row(finished, "quant=int8_pc window=4s target=u85_256", "target.sram_kib=1")
    assert row["status"] == "over_budget" and "target.sram_kib=1 " in row["reason"]


def test_a_variant_above_its_budget_is_a_row(finished):
    row = failed_row(finished, "quant=int8_pc window=4s target=u85_512", "budget.flash_kib=10")
    metrics = json.loads((variant_dirs(finished)["u85_512"] / "metrics.json").read_text())
    assert row["status"] == metrics["status"] == "over_budget"
    assert row["reason"] == metrics["reason"] == f"flash is {number(metrics['npu']['flash_kib'])} KiB, budget.flash_kib=10"
    tracked = json.loads((finished / "results" / "report" / "tracked.json").read_text())
    assert tracked["variants"][row["variant"]]["status"] == "over_budget", "logged all the same"


@pytest.mark.slow
def test_a_variant_that_cannot_be_lowered_is_a_row(finished):
    """On the U55, 16-bit attention stays on the CPU: the row says so, the table is made, and the exit status tells it."""
    row = failed_row(finished, "quant=a16w8 window=4s target=u55_128", "quant.families=[u85,u55]")
    assert row["status"] == "failed" and "left to the CPU" in row["reason"]


def test_a_thousand_hours_are_planned_for_a_cluster(tmp_path):
    """`experiment=librispeech_960` as docs/training.md has it, on four GPUs of a Slurm cluster."""
    profile, devices = ROOT / "workflow" / "profiles" / "slurm", "train.devices=4 train.accumulate=2"
    words = ["--dry-run", "--workflow-profile", str(profile)]
    done = snakemake(tmp_path, *words, tiny=[], overrides=devices, sweep="", experiment="librispeech_960")
    assert jobs(done) > {"corpus", "features", "tokenizer", "train", "quantize", "tosa", "lower", "evaluate_program"}
    (training,) = re.findall(r"rule train:\n(?:    .*\n)+", done.stdout)
    assert "conformer_s-librispeech_960" in training and "gpu=4" in training


def test_a_wrong_choice_stops_before_any_job(tmp_path):
    done = snakemake(tmp_path, check=False, model="conformer_xxl")
    assert done.returncode != 0
    assert "conformer_xxl" in done.stdout and "conformer_xs" in done.stdout, "what there is to choose from"
    assert not (tmp_path / "results").exists()


def test_a_dead_server_fails_the_track_step_alone(whole, tmp_path):
    here = shutil.copytree(whole, tmp_path / "here", symlinks=True)
    report = here / "results" / "report"
    report.joinpath("variants.txt").unlink()  # so that the report is to be made again too
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nothing listens there
        dead = f"tracking.uri=http://127.0.0.1:{closed.getsockname()[1]} tracking.timeout_s=2"
        assert jobs(snakemake(here, "--dry-run", overrides=dead)) == {"metrics", "variants_list", "report", "track", "verdict"}
        done = snakemake(here, check=False, overrides=dead)
    assert done.returncode != 0
    assert re.findall(r"Error in rule (\w+)", done.stdout) == ["track"] * 3, done.stdout  # as its `retries` say
    assert "nothing is lost" in done.stdout
    assert (report / "report.html").is_file() and not (report / "tracked.json").exists()
    assert jobs(snakemake(here, "--dry-run", overrides=dead)) == {"track", "verdict"}
    snakemake(here)  # into SQLite
    assert "Nothing to be done" in snakemake(here, "--dry-run").stdout
