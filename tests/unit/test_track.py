"""MLflow as a sink: one run for each model and variant however often it is logged, right after changes, and clear when it is not there."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import free_port, serving
from stage_command import run
from variants_on_disk import MODEL, VARIANTS, run_stage, write_model, write_results, write_variant

from earshot import mlflow_pages, model_registry, track
from earshot.config import Tracking
from earshot.errors import ArtifactError, TrackingError
from earshot.files import write_json
from earshot.live_run import LiveRun
from earshot.mlflow_store import PARENT, Store
from earshot.search import result

LIVE_PARAMS = {"model": {"dim": 96, "layers": 4}, "train": {"lr": 0.002, "epochs": 12}}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """A SQLite store without runs: making one takes seconds, copying it none."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store(f"sqlite:///{path}", "unused", 5)
    return path


@pytest.fixture
def tracking(tmp_path, empty_store) -> Tracking:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db")


def log(tracking: Tracking, results: Path) -> dict:
    return track.log_results(tracking, "demo", results, track.find_variants(results))


def runs(tracking: Tracking) -> dict:
    return Store(tracking.uri, "demo", 5).runs()


def actions(logged: dict) -> set[str]:
    return {run["action"] for kind in ("models", "variants") for run in logged[kind].values()}


def artifacts(store: Store, run_id: str, folder: str = "") -> set[str]:
    below = store.client.list_artifacts(run_id, folder)
    return {path for file in below for path in (artifacts(store, run_id, file.path) if file.is_dir else [file.path])}


def test_runs_as_people_want_to_see_them(tracking, tmp_path):
    write_results(tmp_path)
    curves_of_training = tmp_path / "programs" / MODEL / "int8_pc-hist64-5s" / "u85" / "qat.csv"
    curves_of_training.write_text("step,train_loss,dev_loss,dev_wer\n50,0.02,0.01,0.1\n")
    of_lowering = {"cycles.svg", "cycles_by_layer.csv", "cycles_by_module.csv", "cycles_by_operator.csv", "sram.svg", "vela_summary.csv"}
    for name in of_lowering:
        (tmp_path / "variants" / MODEL / "int8_pc-hist64-5s" / "u85_256" / name).write_text("where cycles and memory go")
    of_report = {"pareto.html", "report.html", "variants.csv", "operators.csv"}
    (tmp_path / "report").mkdir()
    for name in of_report:
        (tmp_path / "report" / name).write_text("variants side by side")
    logged = log(tracking, tmp_path)
    found = runs(tracking)
    assert len(found) == 1 + len(VARIANTS) and actions(logged) == {"created"}
    parent, child = found["model", MODEL], found["variant", f"{MODEL}/int8_pc-hist64-5s/u85_256"]
    assert child.data.tags[PARENT] == parent.info.run_id and child.info.run_name == "int8_pc/u85_256"
    chosen = [child.data.params[key] for key in ("scheme", "quant", "target", "values.quant.weight_bits", "values.window.seconds")]
    assert chosen == ["int8_pc-hist64-5s", "int8_pc", "u85_256", "8", "5.0"]
    metrics = child.data.metrics
    assert (metrics["wer"], metrics["wer_float"], metrics["sram_kib"], metrics["npu_cycles"]) == (0.095, 0.09, 610.0, 5_200_000)
    to_quantized = [metrics[f"wer_difference_{key}"] for key in ("to_quantized", "ci95_to_quantized_low", "ci95_to_quantized_high")]
    assert to_quantized == [0.001, -0.002, 0.004]
    assert child.data.tags["earshot.status"] == "ok" and child.info.status == "FINISHED"
    assert parent.data.params["train.lr"] == "0.002" and parent.data.metrics["parameters"] == 1_060_000
    assert parent.data.metrics["audio_s_per_s"] == 118.6 and parent.data.metrics["step_s_backward"] == 0.052
    store = Store(tracking.uri, "demo", 5)
    assert [point.step for point in store.client.get_metric_history(parent.info.run_id, "train_loss")] == [40 * (i + 1) for i in range(12)]
    of_child, of_parent = ({file.path for file in store.client.list_artifacts(run.info.run_id)} for run in (child, parent))
    assert of_child == {"metrics.json", "lower.json", "evaluation.utterances.csv", "parity.json", "qat.csv"} | of_lowering
    assert of_parent == {"metrics.json", "config.yaml", "curves.csv"} | of_report
    assert next(iter(logged["variants"])).endswith("fp32-hist64-5s/host"), "the best WER first"


def test_logging_twice_makes_no_second_run(tracking, tmp_path):
    write_results(tmp_path)
    first = log(tracking, tmp_path)
    again = log(tracking, tmp_path)
    assert actions(again) == {"unchanged"}
    assert {name: run["run_id"] for name, run in first["variants"].items()} == {
        name: run["run_id"] for name, run in again["variants"].items()
    }
    assert len(runs(tracking)) == 1 + len(VARIANTS)


def test_changed_figures_update_the_run(tracking, tmp_path):
    write_results(tmp_path)
    first = log(tracking, tmp_path)
    name = f"{MODEL}/int8_pc-hist64-5s/u85_256"
    write_variant(tmp_path, "int8_pc-hist64-5s", "u85_256", 0.08)
    second = log(tracking, tmp_path)
    assert second["variants"][name] == {"run_id": first["variants"][name]["run_id"], "action": "updated", "status": "ok"}
    assert runs(tracking)["variant", name].data.metrics["wer"] == 0.08
    assert [run["action"] for run in second["variants"].values()].count("unchanged") == len(VARIANTS) - 1


def test_a_variant_that_fails_later_shows_no_old_figures(tracking, tmp_path):
    write_results(tmp_path)
    log(tracking, tmp_path)
    write_variant(tmp_path, "int8_pc-hist64-5s", "u85_256", 0.08, reason="SRAM exceeded")
    logged = log(tracking, tmp_path)
    found = runs(tracking)
    failed = found["variant", f"{MODEL}/int8_pc-hist64-5s/u85_256"]
    assert len(found) == 1 + len(VARIANTS) and failed.info.status == "FAILED"
    assert failed.data.tags["earshot.reason"] == "lowering: SRAM exceeded"
    assert failed.info.run_id not in mlflow_pages.links(logged, {})["compare"], "next to it MLflow would compare no WER"
    assert "npu_cycles" not in failed.data.metrics and "wer_quantized" in failed.data.metrics

    write_variant(tmp_path, "int8_pc-hist64-5s", "u85_256", 0.08)
    log(tracking, tmp_path)
    mended = runs(tracking)["variant", f"{MODEL}/int8_pc-hist64-5s/u85_256"]
    assert mended.info.status == "FINISHED" and "earshot.reason" not in mended.data.tags and mended.data.metrics["wer"] == 0.08


def test_a_model_trained_anew_replaces_its_run_and_keeps_its_variants(tracking, tmp_path):
    write_results(tmp_path)
    first = log(tracking, tmp_path)
    write_model(tmp_path, lr=0.001)
    second = log(tracking, tmp_path)
    found = runs(tracking)
    assert second["models"][MODEL]["run_id"] != first["models"][MODEL]["run_id"]
    assert found["model", MODEL].data.params["train.lr"] == "0.001"
    assert {run.data.tags[PARENT] for (kind, _), run in found.items() if kind == "variant"} == {second["models"][MODEL]["run_id"]}


def test_two_machines_that_make_a_run_at_once_end_with_one(tracking, tmp_path):
    """Here it is made by hand what a lock on one machine prevents; the later pass goes on with the run that was there first."""
    write_results(tmp_path)
    first = log(tracking, tmp_path)
    store, key = Store(tracking.uri, "demo", 5), ("variant", next(iter(first["variants"])))
    assert store.open_run(None, key, {}) == first["variants"][key[1]]["run_id"], "as soon as it is made"
    store.client.create_run(store.experiment_id, tags=dict(zip(("earshot.kind", "earshot.id"), key, strict=True)))
    assert actions(log(tracking, tmp_path)) == {"unchanged"}
    assert len(store.client.search_runs([store.experiment_id])) == 1 + len(VARIANTS)


def test_each_finished_variant_is_a_version_of_the_model_and_the_best_has_the_alias(tracking, tmp_path):
    paths = write_results(tmp_path)
    paths.append(write_variant(tmp_path, "a8w4-hist64-5s", "u85_256", 0.05, reason="SRAM exceeded"))

    def register(marks: dict | None = None) -> dict:
        logged = track.log_results(tracking, "demo", tmp_path, paths, marks)
        return model_registry.register(tracking, "demo", logged, paths, marks or {})

    first = register()
    assert first["created"] == len(VARIANTS) == len(first["versions"]), "none of the variant that failed"
    assert first["winner"]["variant"] == f"{MODEL}/fp32-hist64-5s/host" and first["winner"]["uri"] == "models:/demo@winner"
    assert register()["created"] == 0
    write_variant(tmp_path, "int8_pc-hist64-5s", "u85_256", 0.08)
    client, second = Store(tracking.uri, "demo", 5).client, register()
    assert second["created"] == 0 and second["winner"]["variant"] == f"{MODEL}/int8_pc-hist64-5s/u85_256", "other figures, the same program"
    (tmp_path / "variants" / second["winner"]["variant"] / "model.pte").write_bytes(b"another program")
    third = register()
    held = client.get_model_version_by_alias("demo", "winner")
    assert third["created"] == 1 and held.version == third["winner"]["version"] != second["winner"]["version"]
    of_search = f"{MODEL}/a16w8-hist64-5s/u85_256"
    assert register({of_search: {"earshot.winner_of": "greedy"}})["winner"]["variant"] == of_search


def test_a_half_logged_model_is_another_writers_until_it_is_old(tracking, tmp_path, monkeypatch):
    write_model(tmp_path)
    path = write_variant(tmp_path, "int8_pc-hist64-5s", "u85_256", 0.08)
    logged = track.log_results(tracking, "demo", tmp_path, [path])
    store, (run,) = Store(tracking.uri, "demo", 5), logged["variants"].values()
    half = store.client.create_logged_model(store.experiment_id, name="half", source_run_id=run["run_id"])

    def register_another_program(content: bytes) -> set[str]:
        (path.parent / "model.pte").write_bytes(content)
        assert model_registry.register(tracking, "demo", logged, [path], {})["created"] == 1
        return {model.model_id for model in store.client.search_logged_models([store.experiment_id])}

    assert half.model_id in register_another_program(b"one")
    monkeypatch.setattr(model_registry, "ABANDONED_S", -60)
    assert half.model_id not in register_another_program(b"another")


def test_the_program_is_kept_where_asked(tracking, tmp_path):
    write_results(tmp_path)
    log(tracking, tmp_path)
    tracking.log_pte = True
    logged = log(tracking, tmp_path)
    name = f"{MODEL}/int8_pc-hist64-5s/u85_256"
    assert logged["variants"][name]["action"] == "updated" and logged["models"][MODEL]["action"] == "unchanged"
    files = {file.path for file in Store(tracking.uri, "demo", 5).client.list_artifacts(logged["variants"][name]["run_id"])}
    assert "model.pte" in files


def test_a_damaged_file_logs_nothing(tracking, tmp_path):
    paths = write_results(tmp_path)
    paths[-1].write_text('{"schema_version": 1, "status": "ok"}')
    with pytest.raises(ArtifactError, match=str(paths[-1])):
        log(tracking, tmp_path)
    assert not runs(tracking)


def test_live_curves_are_completed_by_track(tracking, tmp_path):
    write_results(tmp_path)
    with (tmp_path / "train" / MODEL / "curves.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with LiveRun(tracking, "demo", MODEL, LIVE_PARAMS) as live:
        for row in rows[:7]:
            live.log({"train_loss": float(row["train_loss"]) * 1.000001, "dev_wer": float(row["dev_wer"])}, int(row["step"]))
    alone = runs(tracking)["model", MODEL]
    assert alone.info.status == "FINISHED" and alone.data.params["train.lr"] == "0.002"
    logged = log(tracking, tmp_path)
    assert logged["models"][MODEL] == {"run_id": alone.info.run_id, "action": "updated"}
    history = Store(tracking.uri, "demo", 5).client.get_metric_history(alone.info.run_id, "train_loss")
    assert [point.step for point in history] == [int(row["step"]) for row in rows], "each step once"
    assert log(tracking, tmp_path)["models"][MODEL]["action"] == "unchanged"


def test_live_curves_of_an_interrupted_training_go_on_in_the_same_run(tracking):
    with contextlib.suppress(KeyboardInterrupt), LiveRun(tracking, "demo", MODEL, LIVE_PARAMS) as live:
        live.log({"train_loss": 3.0}, 40)
        raise KeyboardInterrupt
    killed = runs(tracking)["model", MODEL]
    assert killed.info.status == "KILLED"
    with LiveRun(tracking, "demo", MODEL, LIVE_PARAMS) as live:
        live.log({"train_loss": 2.0}, 80)
    found = runs(tracking)
    assert len(found) == 1 and found["model", MODEL].info.run_id == killed.info.run_id
    assert found["model", MODEL].data.metrics["train_loss"] == 2.0


def test_live_curves_never_stop_the_training(caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as deaf, caplog.at_level(logging.WARNING, "earshot.live_run"):
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()  # takes connections, answers nothing
        for port in (free_port(), deaf.getsockname()[1]):
            caplog.clear()
            live, started = LiveRun(Tracking(uri=f"http://127.0.0.1:{port}"), "demo", MODEL, {}), time.monotonic()
            for step in range(50):
                live.log({"loss": 1.0}, step)
            assert time.monotonic() - started < 0.5, "logging does not wait"
            live.close()
            live.log({"loss": 1.0}, 50)
            assert time.monotonic() - started < 10
            assert len(caplog.records) == 1 and f"127.0.0.1:{port}" in caplog.text and "training goes on" in caplog.text
    LiveRun(Tracking(enabled=False, uri=""), "demo", MODEL, {}).log({"loss": 1.0}, 1)


def test_a_dead_server_is_one_clear_line(tmp_path):
    write_results(tmp_path)
    started = time.monotonic()
    done = run_stage("track", f"results={tmp_path}", f"tracking.uri=http://127.0.0.1:{free_port()}", f"out={tmp_path}/track.json")
    assert time.monotonic() - started < 15
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "http://127.0.0.1:" in done.stderr and "nothing is lost" in done.stderr and not (tmp_path / "track.json").exists()


def test_a_damaged_store_is_named_at_once(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database, but it is long enough to be taken for one by its size " * 20)
    started = time.monotonic()
    with pytest.raises(TrackingError, match=r"mlflow\.db.*not a database"):
        Store(f"sqlite:///{tmp_path}/mlflow.db", "demo", 5)
    assert time.monotonic() - started < 5


def test_two_processes_make_the_store_at_once(tmp_path):
    write_results(tmp_path)
    words = [f"results={tmp_path}", "experiment_name=demo", f"tracking.uri=sqlite:///{tmp_path}/new/mlflow.db", "tracking.models=false"]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "earshot.stages.track", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ends = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    out = "".join(stdout for stdout, _ in ends)
    assert f"{1 + len(VARIANTS)} created" in out and f"{1 + len(VARIANTS)} unchanged" in out
    assert (
        f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/new/mlflow.db" in out
        and "viewStateShareKey=earshot" in out
        and "compare-runs" in out
    )
    assert len(runs(Tracking(uri=f"sqlite:///{tmp_path}/new/mlflow.db"))) == 1 + len(VARIANTS)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "programs", "train", "variants"}, "nothing else is left"


def test_a_server(tmp_path, empty_store):
    write_results(tmp_path)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "mlflow.db").write_bytes(empty_store.read_bytes())
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "server" / "artifacts"),
    ]
    # Without the processes that run jobs of its own, of which each imports all of MLflow.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with serving(command, f"http://127.0.0.1:{port}/health", tmp_path / "server.log", tmp_path / "server", environment):
        tracking = Tracking(uri=f"http://127.0.0.1:{port}")
        with LiveRun(tracking, "demo", MODEL, LIVE_PARAMS) as live:
            live.log({"train_loss": 90.0}, 40)
        first = log(tracking, tmp_path)
        again = log(tracking, tmp_path)
        assert actions(again) == {"unchanged"} and first["models"][MODEL]["action"] == "updated"
        assert len(runs(tracking)) == 1 + len(VARIANTS)
        run_id = again["variants"][f"{MODEL}/int8_pc-hist64-5s/u85_256"]["run_id"]
        files = {file.path for file in Store(tracking.uri, "demo", 5).client.list_artifacts(run_id)}
        assert "metrics.json" in files
        assert mlflow_pages.links(again, {})["table"].startswith(f"http://127.0.0.1:{port}/#/experiments/")


def test_tracking_off_logs_nothing(tmp_path):
    write_results(tmp_path)
    done = run_stage("track", f"results={tmp_path}", "tracking=off", f"out={tmp_path}/track.json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads((tmp_path / "track.json").read_text())["enabled"] is False
    assert not list(tmp_path.rglob("mlflow.db"))


def test_a_models_run_keeps_its_sensitivity_tables_and_searches(tmp_path, empty_store):
    """By name, as the workflow gives them, and by itself where everything is logged again; another model's are not its own."""
    write_results(tmp_path)
    files = {
        f"sensitivity/{MODEL}/standard-hist64-5s/u85": ("sensitivity.svg", "sensitivity.csv", "sensitivity.json"),
        f"search/{MODEL}/greedy-none/u85_256": ("trials.csv", "candidates.json", "winner.yaml"),
        "sensitivity/another/standard-hist64-5s/u85": ("sensitivity.svg",),
    }
    for folder, names in files.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).write_text(name)
    found = {"search": "greedy", "winner": None, "trials": []}
    write_json(tmp_path / f"search/{MODEL}/greedy-none/u85_256" / "result.json", found)
    given = [f"variants=[{','.join(map(str, track.find_variants(tmp_path)))}]"]
    given += [f"{key}=[{','.join(track.find(tmp_path, one))}]" for key, one in (("tables", track.TABLES), ("searches", track.SEARCHES))]
    for number, words in enumerate(([], given, given[:1])):
        uri = f"sqlite:///{tmp_path}/{number}.db"
        (tmp_path / f"{number}.db").write_bytes(empty_store.read_bytes())
        run("track", f"results={tmp_path}", "experiment_name=demo", f"tracking.uri={uri}", "tracking.models=false", *words)
        store = Store(uri, "demo", 5)
        kept = {path for path in artifacts(store, store.runs()["model", MODEL].info.run_id) if "/" in path}
        table, search = "sensitivity/standard-hist64-5s/u85", "search/greedy-none/u85_256"
        of_search = {f"{search}/{name}" for name in ("result.json", "trials.csv", "candidates.json")}
        assert kept == ({f"{table}/sensitivity.svg", f"{table}/sensitivity.csv"} | of_search if number < 2 else set())


def test_the_trials_of_a_search_and_its_winner_are_tagged(tracking, tmp_path):
    """As the stage gives them; a search that finds another winner changes the tags, and no run."""
    write_results(tmp_path)
    first, second = (f"{MODEL}/{scheme}/{target}" for scheme, target, _ in VARIANTS[3:5])

    def tagged(winner: str) -> tuple[dict, set[str]]:
        trials = [{"variant": first}, {"variant": second}]
        marks = result.tags([{"search": "greedy", "winner": {"variant": winner}, "trials": trials}])
        logged = track.log_results(tracking, "demo", tmp_path, track.find_variants(tmp_path), marks)
        return {name: runs(tracking)["variant", name].data.tags for name in (first, second)}, actions(logged)

    tags, _ = tagged(first)
    assert tags[first]["earshot.search"] == tags[second]["earshot.search"] == "greedy"
    assert (tags[first]["earshot.winner_of"], tags[second]["earshot.winner_of"]) == ("greedy", "")
    tags, done = tagged(second)
    assert (tags[first]["earshot.winner_of"], tags[second]["earshot.winner_of"]) == ("", "greedy") and "created" not in done
