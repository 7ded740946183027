"""A training goes on from where it stopped, keeps what it was told to, and runs in the processes that were started."""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_training import UTTERANCES, same_curves, same_weights

from earshot import curves
from earshot.config import Train
from earshot.corpus.manifest import load_cuts
from earshot.data import Batch, Utterances
from earshot.errors import ConfigError
from earshot.files import read_json
from earshot.model import checkpoint
from earshot.train import CtcTraining, checkpoints, fitting
from earshot.train.callbacks import KeptEpochs
from earshot.train.checkpoints import TwoGenerations

pytestmark = pytest.mark.xdist_group("fitting")


@pytest.mark.parametrize("kind", ["stored", "live"])
def test_an_interrupted_training_repeats_and_loses_nothing(train, tmp_path, noises, kind):
    """Stopped in the middle of an epoch and between two, it sees the same batches and ends with the same weights, to the last bit."""
    live = ["train.speeds=[0.9,1.0,1.1]", f"train.noise={noises}"]
    settings = ["train.epochs=3", "train.batch_s=20", *(["train.accumulate=2"] if kind == "stored" else live)]
    whole = train(tmp_path / "whole", *settings, features=kind)
    # A worker loads what this process would.
    settings += ["train.data_workers=1"] if kind == "live" else []
    stops = [lambda epoch, number: (epoch, number) == (1, 2), lambda epoch, number: epoch == 2, lambda *_: False]
    pieces = [train(tmp_path / "pieces", *settings, features=kind, stop=stop) for stop in stops]
    assert all(pieces) and [batch for piece in pieces for batch in piece] == whole
    assert same_curves(tmp_path / "whole", tmp_path / "pieces")
    assert same_weights(tmp_path / "whole", tmp_path / "pieces")
    names = {utterance.split("_sp")[0] for batch in whole for utterance in batch}
    assert len(names) == UTTERANCES and (kind == "stored") != any("_sp1.1" in utterance for batch in whole for utterance in batch)


def test_a_checkpoint_is_written_after_so_many_seconds_and_each_epoch(train, tmp_path, monkeypatch):
    clock, saved = itertools.count(step=100.0), []
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(TwoGenerations, "save_checkpoint", lambda _, content, path, **options: saved.append(content["training"]))
    batches = train(tmp_path / "model", "train.epochs=1", "train.batch_s=6", "train.checkpoint_every_s=350")
    *between, of_epoch = [place["batches"] for place in saved]
    apart = {later - earlier for earlier, later in itertools.pairwise(between)}
    assert of_epoch == 0 and len(between) >= 2 and apart == {4}
    assert len(batches) > between[-1]


def test_of_a_truncated_checkpoint_the_one_before_it_is_used(train, plain, tmp_path, capsys):
    whole, model = plain
    first = train(tmp_path / "broken", stop=lambda epoch, number: (epoch, number) == (0, 3))
    last = tmp_path / "broken" / "state" / "last.ckpt"
    os.truncate(last, last.stat().st_size // 2)
    rest = train(tmp_path / "broken")
    assert rest == whole[len(first) - 1 :]  # a checkpoint after each batch: one batch is trained with again
    assert same_weights(model, tmp_path / "broken")
    assert "last.ckpt: damaged" in capsys.readouterr().out and (last.parent / "last.ckpt.damaged").exists()


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, caplog):
    path, limits = tmp_path / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    TwoGenerations().save_checkpoint({"step": 1}, path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        TwoGenerations().save_checkpoint({"step": 2, "weights": torch.zeros(10_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert "not written" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_changed_data_set_puts_the_state_aside_by_name(train, tmp_path, speech, capsys):
    train(tmp_path / "model", stop=lambda epoch, number: number == 1)
    changed = tmp_path / "features"
    shutil.copytree(speech / "stored", changed)
    cuts = list(load_cuts(changed / "train.cuts.jsonl.gz"))[1:]
    type(load_cuts(changed / "train.cuts.jsonl.gz")).from_cuts(cuts).to_file(changed / "train.cuts.jsonl.gz")
    train(tmp_path / "model", features=changed, stop=lambda *_: True)
    train(tmp_path / "model", stop=lambda *_: True)  # what is put aside now does not take the place of the first
    assert "of other data or settings (train)" in capsys.readouterr().out
    assert (tmp_path / "model" / "state.previous" / "last.ckpt").exists()
    assert len(list((tmp_path / "model").glob("state.previous*"))) == 2


def test_a_vanished_worker_is_told_and_nothing_is_lost(train, plain, tmp_path, monkeypatch):
    whole, model = plain
    load = Utterances.__getitem__

    def killed(self: Utterances, cuts):
        if any(cut.id == whole[5][0] for cut in cuts) and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, cuts)

    with monkeypatch.context() as patch:
        patch.setattr(Utterances, "__getitem__", killed)
        message = train.fails(tmp_path / "killed", "train.data_workers=1")
    assert "a process that loads data has vanished" in message and "goes on from its last checkpoint" in message
    rest = train(tmp_path / "killed", "train.data_workers=0")
    assert rest == whole[-len(rest) :] and len(whole) > len(rest)
    assert same_weights(model, tmp_path / "killed")


def test_the_mean_of_the_best_or_last_epochs_can_be_the_result(train, tmp_path):
    train(tmp_path, "train.epochs=4", "train.average=best")
    state = tmp_path / "state"
    rows = curves.read(state / "curves.csv")
    best = sorted(rows, key=lambda row: (float(row["dev_wer"]), -int(row["epoch"])))[:2]
    kept = {int(path.stem): checkpoint.read_weights(path)[0] for path in (state / "epochs").glob("*.safetensors")}
    assert kept.keys() == {int(row["epoch"]) for row in (*best, *rows[-2:])}
    name = "blocks.0.feed_forward1.widen.weight"
    weights, _ = checkpoint.read_weights(tmp_path / "model.safetensors")
    assert torch.allclose(weights[name], sum(kept[int(row["epoch"])][name] for row in best) / 2, atol=1e-7)
    last = KeptEpochs(state / "epochs", state / "curves.csv", None, 2).mean("last")
    assert torch.allclose(last[name], (kept[2][name] + kept[3][name]) / 2, atol=1e-7)
    assert read_json(tmp_path / "metrics.json")["dev_wer"] > 0


def test_the_moving_average_is_the_result(train, tmp_path):
    """The slower it moves, the nearer it stays to the weights of the beginning."""
    weights = []
    for decay in (0.0, 0.9, 0.9999):
        train(tmp_path / f"{decay}", "train.epochs=1", f"train.ema_decay={decay}")
        weights.append(checkpoint.read_weights(tmp_path / f"{decay}" / "model.safetensors")[0]["output.weight"])
    last, between, first = weights
    assert 0 < (between - last).norm() < (first - last).norm()


def test_a_checkpoint_and_the_metrics_say_where_they_come_from(train, plain):
    _, model = plain
    content = torch.load(model / "state" / "last.ckpt", weights_only=True)
    metrics = read_json(model / "metrics.json")
    assert metrics["provenance"] == content["provenance"]
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", content["provenance"]["commit"])
    assert content["provenance"]["seed"] == "0" and content["provenance"]["torch"] == torch.__version__.split("+")[0]
    assert {"train_sha256", "dev_sha256", "front_end_sha256", "pieces_sha256"} <= content["provenance"].keys()
    throughput = json.loads((model / "state" / "throughput.json").read_text())
    assert metrics["throughput"] == {key: value for key, value in throughput.items() if key != "schema_version"} | {"schema_version": 1}
    assert sum(throughput["share"].values()) == pytest.approx(1.0)
    total = sum(cut.duration for cut in load_cuts(train.speech / "stored" / "train.cuts.jsonl.gz"))
    assert throughput["audio_s"] == pytest.approx(2 * total) and throughput["audio_s_per_s"] > 0


@pytest.mark.parametrize(
    ("schedule", "rates"), [("constant", [1, 1, 1, 1]), ("linear", [1, 2 / 3, 1 / 3, 0]), ("cosine", [1, 0.75, 0.25, 0])]
)
def test_the_rate_follows_its_schedule(train, tmp_path, schedule, rates):
    train(
        tmp_path / "model",
        f"train.schedule={schedule}",
        "train.epochs=4",
        "train.warmup_epochs=1",
        "train.optimizer=adamw",
        "train.lr=1e-3",
    )
    found = [float(row["lr"]) for row in curves.read(tmp_path / "model" / "curves.csv")]
    assert found == pytest.approx([1e-3 * rate for rate in rates], abs=1e-6)


def test_a_training_that_no_longer_gets_better_ends(train, tmp_path):
    # The weights that are looked at stay those of the first step: no epoch is better than the first.
    train(tmp_path / "model", "train.epochs=20", "train.patience_epochs=2", "train.ema_decay=0.999999999", "train.lr=1e-30")
    assert [int(row["epoch"]) for row in curves.read(tmp_path / "model" / "curves.csv")] == [0, 1, 2]
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.fixture
def steep(monkeypatch):
    """The loss of the batch with this utterance has a gradient that is no number."""
    losses = CtcTraining.losses

    def steep(task: CtcTraining, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        learned, loss = losses(task, batch)
        return (learned + (0 * learned).abs().sqrt() if "train-7" in batch.ids else learned), loss

    monkeypatch.setattr(CtcTraining, "losses", steep)


def test_a_gradient_that_is_no_number_names_its_utterances(train, tmp_path, steep):
    message = train.fails(tmp_path / "model")
    assert "the gradient is no finite number any more in epoch 1" in message and "train-7" in message
    assert len([word for word in message.split() if word.startswith("train-")]) < UTTERANCES


def trained_in_fp16(train, out: Path) -> float:
    """By how much the loss is scaled in the end."""
    train(out, "train.precision=fp16", "train.epochs=3")
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.read_weights(out / "model.safetensors")[0].values())
    return torch.load(out / "state" / "last.ckpt", weights_only=True)["MixedPrecision"]["scale"]


def test_fp16_scales_its_loss_and_leaves_out_a_step_too_far(train, tmp_path, request):
    scale = trained_in_fp16(train, tmp_path / "model")
    request.getfixturevalue("steep")
    assert 1 <= trained_in_fp16(train, tmp_path / "steep") < scale


def test_fp16_ends_where_no_scale_helps(train, tmp_path, monkeypatch):
    losses = CtcTraining.losses

    def no_number(task: CtcTraining, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        learned, loss = losses(task, batch)
        return learned + (0 * learned).abs().sqrt(), loss

    monkeypatch.setattr(CtcTraining, "losses", no_number)
    message = train.fails(tmp_path / "model", "train.precision=fp16", "train.epochs=20", "train.batch_s=6")
    assert "the gradient is no finite number any more" in message and "train-" in message


def test_the_processes_are_those_that_were_started(monkeypatch):
    assert fitting.processes(Train(devices=2, accelerator="cpu")) == []
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "snakemake")
    (environment,) = fitting.processes(Train(devices=2, accelerator="cpu"))
    assert not environment.creates_processes_externally  # one task of Slurm starts the two itself
    monkeypatch.setenv("SLURM_NTASKS", "3")
    with pytest.raises(ConfigError, match="Slurm started 3 processes"):
        fitting.processes(Train(devices=2, accelerator="cpu"))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")  # torchrun under Slurm: it is torchrun that starts them
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert fitting.processes(Train(devices=2, accelerator="cpu")) == []
    with pytest.raises(ConfigError, match="torchrun started 2 processes"):
        fitting.processes(Train(devices=1, accelerator="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"train\.devices=4: 2 GPUs are visible"):
        fitting.processes(Train(devices=4, accelerator="gpu"))


def test_a_place_within_an_epoch_belongs_to_its_number_of_processes(train, tmp_path):
    out = tmp_path / "model"
    train(out, stop=lambda epoch, number: number == 2)
    path = out / "state" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["training"]["processes"] = 4
    torch.save(content, path)
    assert "in the middle of an epoch by 4 processes, and here are 1" in train.fails(out)
