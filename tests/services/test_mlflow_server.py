"""Tracking on a server that a team shares: eight writers at once, a server dead or slow at any moment, credentials, served models."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from faulty_proxy import FAULTS, FaultyProxy
from serving import free_port, serving
from shared_server import PASSWORD, Server

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from variants_on_disk import MODEL, run_stage, write_model, write_results

from earshot import model_registry, track, variant_metrics
from earshot.config import Tracking
from earshot.errors import TrackingError
from earshot.live_run import LiveRun
from earshot.mlflow_store import Store

RESULTS = Path(os.environ.get("EARSHOT_RESULTS", Path(__file__).parents[2] / "results"))
LONGEST_ANSWER_S = 600
MOMENTS = 8  # at which the server fails, drawn among all requests of a pass


def log(uri: str, experiment: str, results: Path) -> dict:
    tracking, paths = Tracking(uri=uri), track.find_variants(results)
    logged = track.log_results(tracking, experiment, results, paths)
    return logged | {"registered": model_registry.register(tracking, experiment, logged, paths, {})}


def check_nothing_is_lost(uri: str, experiment: str, results: Path) -> None:
    """Each metrics.json is one run with its figures and files, each finished variant a version, and the alias is there."""
    store = Store(uri, experiment, 30)
    found = store.client.search_runs([store.experiment_id], max_results=1000)
    runs = {run.data.tags["earshot.id"]: run for run in found}
    paths = track.find_variants(results)
    assert len(found) == len(runs) and len(runs) >= 1 + len(paths)
    for path in paths:
        content = variant_metrics.read(path)
        run = runs[content["variant"]]
        figures = variant_metrics.figures(content)
        assert run.data.metrics == pytest.approx(figures) and run.info.status == "FINISHED"
        assert "metrics.json" in {file.path for file in store.client.list_artifacts(run.info.run_id)}
    versions = store.client.search_model_versions(f"name = '{experiment}'")
    assert {version.tags["earshot.variant"] for version in versions} == {variant_metrics.read(path)["variant"] for path in paths}
    assert store.client.get_model_version_by_alias(experiment, "winner")


def test_a_server_that_fails_at_any_moment_loses_nothing(server: Server, tmp_path, monkeypatch):
    write_results(tmp_path)
    proxy = FaultyProxy(server.port)
    with proxy.listening() as uri:
        log(uri, "whole", tmp_path)
        requests = proxy.requests
        draw = random.Random(0)
        for turn, moment in enumerate(draw.sample(range(requests), MOMENTS)):
            fault, experiment = FAULTS[turn % len(FAULTS)], f"moment{turn}"
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2" if fault == "slow" else "90")
            proxy.break_at(moment, fault)
            with pytest.raises(TrackingError, match=r"nothing is lost, the figures stand in the metrics\.json files"):
                log(uri, experiment, tmp_path)
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "90")
            proxy.mend()  # at the same address: MLflow keeps in mind where the files of a run went
            log(uri, experiment, tmp_path)
            check_nothing_is_lost(uri, experiment, tmp_path)
            print(f"{fault} at request {moment} of {requests}: made up for")


def test_a_server_that_dies_while_a_training_shows_its_curves(server: Server, tmp_path, caplog):
    write_results(tmp_path)
    live = LiveRun(Tracking(uri=server.uri), "killed", MODEL, {"train": {"lr": 0.002}})
    live.log({"train_loss": 90.0}, 40)
    store = Store(server.uri, "killed", 30)
    deadline = time.monotonic() + 120
    while not any("train_loss" in run.data.metrics for run in store.runs().values()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    server.kill()
    try:
        with caplog.at_level(logging.WARNING, "earshot.live_run"):
            started = time.monotonic()
            for step in range(80, 480, 40):
                live.log({"train_loss": 3600.0 / step}, step)
            assert time.monotonic() - started < 1, "the training does not wait"
            live.close()
            assert time.monotonic() - started < 40 and "training goes on" in caplog.text
        done = run_stage("track", f"results={tmp_path}", "experiment_name=killed", f"tracking.uri={server.uri}")
        assert done.returncode == 1 and "nothing is lost" in done.stderr
    finally:
        server.start()
    log(server.uri, "killed", tmp_path)
    check_nothing_is_lost(server.uri, "killed", tmp_path)
    run = Store(server.uri, "killed", 30).runs()["model", MODEL]
    assert [point.step for point in store.client.get_metric_history(run.info.run_id, "train_loss")] == [40 * (i + 1) for i in range(12)]


def test_credentials_are_in_no_log(server: Server, tmp_path):
    write_results(tmp_path)
    words = [f"results={tmp_path}", "experiment_name=credentials", f"tracking.uri={server.uri}", f"out={tmp_path}/tracked.json"]
    right = run_stage("track", *words)
    assert right.returncode == 0, right.stderr
    wrong = run_stage("track", *words, MLFLOW_TRACKING_PASSWORD=f"not-{PASSWORD}")
    nobody = run_stage("track", *words, MLFLOW_TRACKING_USERNAME="", MLFLOW_TRACKING_PASSWORD="")
    for refused in (wrong, nobody):
        assert refused.returncode == 1 and "Traceback" not in refused.stderr
        assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in refused.stderr
    written = [path for folder in (tmp_path, server.folder) for path in folder.rglob("*") if path.is_file()]
    texts = [one.stdout + one.stderr for one in (right, wrong, nobody)] + [path.read_bytes().decode(errors="replace") for path in written]
    assert len(written) > 20 and not [text for text in texts if PASSWORD in text]


def _write(uri: str, results: Path, writer: int) -> None:
    tempfile.tempdir = tempfile.mkdtemp()  # the lock of a machine lies there: each writer is a machine of its own
    write_model(results, model=f"model{writer}")
    with LiveRun(Tracking(uri=uri), "eight", f"model{writer}", {"writer": writer}) as live:
        for step in range(20):
            live.log({"train_loss": 1.0 / (step + 1)}, step)
    log(uri, "eight", results)


def test_eight_writers_at_once(server: Server, tmp_path):
    """All log the same variants, each beside a training of its own."""
    write_results(tmp_path)
    model_registry._example()  # imports what the writers share
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(server.uri, tmp_path, writer)) for writer in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(3000)
    log(server.uri, "eight", tmp_path)  # whoever lost a race is made up for, as by the rule's retries
    check_nothing_is_lost(server.uri, "eight", tmp_path)
    store = Store(server.uri, "eight", 30)
    for writer in range(8):
        run = store.runs()["model", f"model{writer}"]
        assert len(store.client.get_metric_history(run.info.run_id, "train_loss")) == 20
    assert sum(writer.exitcode == 0 for writer in writers) >= 6, [writer.exitcode for writer in writers]


def test_the_winner_is_served(server: Server, tmp_path, monkeypatch):
    """Of the demo, which CI has run: words for a file, and a clear refusal of what is no audio."""
    if not list(RESULTS.glob("variants/*/*/*/metrics.json")):
        pytest.skip(f"{RESULTS}: no variants there; run the demo first, or set EARSHOT_RESULTS")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)  # where models:/ names are looked up
    logged = log(server.uri, "served", RESULTS)["registered"]
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", logged["winner"]["uri"], "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {"MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(LONGEST_ANSWER_S)}
    with serving(command, f"http://127.0.0.1:{port}/ping", tmp_path / "serve.log", tmp_path, environment):
        (example,) = _download(logged["winner"]["uri"], tmp_path)
        status, answer = _post(port, example)
        assert status == 200 and answer["predictions"][0]["words"].strip(), answer
        status, answer = _post(port, json.dumps({"dataframe_split": {"columns": ["audio"], "data": [["bm8gYXVkaW8="]]}}))
        assert status == 400 and "row 0: the file: cannot be read as audio" in json.dumps(answer)


def _download(model: str, folder: Path) -> list[str]:
    from mlflow.artifacts import download_artifacts

    path = download_artifacts(artifact_uri=model, dst_path=str(folder))
    return [file.read_text() for file in Path(path).glob("serving_input_example.json")]


def _post(port: int, content: str) -> tuple[int, dict]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", content.encode(), headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=LONGEST_ANSWER_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
