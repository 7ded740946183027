"""Training on what the workflow made: it resumes after Ctrl-C and kill -9, runs in two processes, and starts from other weights."""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import stage_command
import torch

from earshot.config import Train
from earshot.corpus.manifest import load_cuts
from earshot.data import Utterances, batches
from earshot.files import read_json
from earshot.model import checkpoint
from earshot.tokenizer import Tokenizer
from earshot.train import CtcTraining
from earshot.train.augment import spec_augment
from earshot.train.ctc import disagreement


@pytest.fixture
def words(finished, tmp_path) -> list[str]:
    """What `python -m earshot.stages.train` is given: the features of the finished workflow, and a tiny model."""
    (features,) = finished.glob("results/features/*/*/front_end.json")
    (tokenizer,) = finished.glob("results/tokenizer/*/tokenizer.model")
    paths = [f"features_dir={features.parent}", f"tokenizer_dir={tokenizer.parent}", f"out={tmp_path / 'model'}", "tracking=off"]
    return [*paths, "model.dim=16", "model.layers=1", "model.heads=2", "model.subsampling_channels=[4,4]", "train.batch_s=20"]


@pytest.fixture
def start(words, finished):
    """Starts the command, or what stands in `launcher` before it: for what needs processes of its own."""

    def start(
        *overrides: str, launcher: tuple[str, ...] = (sys.executable,), module: str = "earshot.stages.train", **environment: str
    ) -> subprocess.Popen:
        command = [*launcher, "-m", module, *words, *overrides]
        # Where the tests run in the background of a shell, Ctrl-C is ignored, and what they start would inherit that.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=finished, env={**os.environ, **environment}, preexec_fn=heed, **streams)

    return start


@pytest.fixture
def train(words, finished, monkeypatch):
    """The same in this process; the manifests' paths are relative to where the workflow ran."""
    monkeypatch.chdir(finished)
    return lambda *overrides: stage_command.run("train", *words, *overrides)


def rows(out: Path) -> list[int]:
    with open(out / "curves.csv", newline="") as stream:
        return [int(row["epoch"]) for row in csv.DictReader(stream)]


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_training_goes_on(start, train, tmp_path, capsys, ending):
    first = start("train.epochs=20")
    for line in first.stdout:
        if line.startswith("epoch 3/20"):
            os.kill(first.pid, ending)
            break
    rest, _ = first.communicate()
    assert first.returncode != 0, rest
    assert not (tmp_path / "model" / "model.safetensors").exists()
    train("train.epochs=20")
    output = capsys.readouterr().out
    epochs = [line for line in output.splitlines() if line.startswith("epoch ")]
    assert "epoch 1/20" not in output and len(epochs) <= 18
    assert rows(tmp_path / "model") == list(range(20))


def test_state_of_another_training_is_put_aside(train, tmp_path, capsys):
    train("train.epochs=1")
    train("train.epochs=1", "train.lr=1e-3")
    assert "training starts anew" in capsys.readouterr().out
    assert rows(tmp_path / "model") == [0]


def test_two_processes_train_one_model(start, tmp_path, finished):
    """In a job of one task under Slurm, as Snakemake starts one; they learn what one process would of the batches of both."""
    environment = {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "snakemake", "LEFT": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
    settings = ["train.epochs=2", "train.batch_s=6", "train.devices=2", "train.accelerator=cpu", "train.accumulate=2"]
    no_random = ["train.silence_p=0", "train.freq_masks=0", "train.time_masks=0", "model.dropout=0", "train.precision=fp32"]
    done = start(*settings, *no_random, module="each_process", **environment)
    output, _ = done.communicate(timeout=600)
    assert done.returncode == 0, output
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert output.count("epoch 2/2") == 1
    assert read_json(tmp_path / "model" / "metrics.json")["throughput"]["processes"] == 2
    gradients, (one, other), validated = (
        [torch.load(tmp_path / f"{what}{rank}.pt", weights_only=True) for rank in (0, 1)] for what in ("gradients", "weights", "validated")
    )
    for name, alone in gradients[0]["alone"].items():
        assert torch.allclose(gradients[0]["together"][name], alone, rtol=1e-3, atol=1e-5 * alone.abs().max().item()), name
        assert torch.equal(gradients[1]["together"][name], gradients[0]["together"][name])
    trained = [name for name, tensor in one.items() if tensor.is_floating_point() and "running" not in name]
    assert all(torch.equal(one[name], other[name]) for name in trained)
    (dev,) = finished.glob("results/features/*/*/dev.cuts.jsonl.gz")
    utterances = {cut.id for cut in load_cuts(dev)}
    assert set(validated[0]) | set(validated[1]) == utterances and all(len(some) < len(utterances) for some in validated)


def test_a_process_that_vanishes_is_told_and_training_goes_on(start, train, capsys):
    settings = ["train.batch_s=6", "train.accelerator=cpu", "train.epochs=20"]
    first = start(*settings, "train.devices=2")
    for line in first.stdout:
        if line.startswith("epoch 2/20"):
            children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
            (other,) = (int(pid) for pid in children if b"earshot" in Path(f"/proc/{pid}/cmdline").read_bytes())
            os.kill(other, signal.SIGKILL)
            break
    output, _ = first.communicate(timeout=600)
    assert first.returncode != 0
    assert "one of 2 processes of the training has vanished" in output and "goes on from its last checkpoint" in output
    assert "Traceback" not in output
    train(*settings, "train.accumulate=2", "train.devices=1")
    output = capsys.readouterr().out
    assert "epoch 1/20" not in output and "epoch 20/20" in output


@pytest.mark.slow
def test_one_of_several_that_runs_out_of_memory_goes_on_with_smaller_parts(start, tmp_path):
    """Its device takes half of the longest batches; the other's takes all."""
    settings = ["train.epochs=2", "train.batch_s=10", "train.silence_p=0", "train.devices=2", "train.accelerator=cpu"]
    outputs = []
    while not outputs or "out of memory" in outputs[-1]:
        done = start(*settings, module="short_of_memory", FRAMES="700", PYTHONPATH=str(Path(__file__).parent))
        outputs.append(done.communicate(timeout=600)[0])
        assert "Traceback" not in outputs[-1]
        assert (done.returncode != 0) == ("out of memory in one of 2 processes; start again" in outputs[-1]), outputs[-1]
    assert len(outputs) > 1 and "epoch 2/2" in outputs[-1]
    assert read_json(tmp_path / "model" / "state" / "memory.json")["limit_s"] < 7


@pytest.mark.slow
def test_killed_under_torchrun_it_goes_on_as_if_it_had_not_been(start, tmp_path):
    """Two processes, killed in the middle of an epoch: the weights in the end are those of a training that was left alone."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    settings = ["train.epochs=6", "train.batch_s=6", "train.devices=2", "train.accelerator=cpu", "train.checkpoint_every_s=0"]
    first = start(*settings, launcher=torchrun)
    assert any(line.startswith("epoch 2/6") for line in first.stdout)
    written, last = set(), tmp_path / "model" / "state" / "last.ckpt"
    while len(written) < 4:  # that of the second epoch, and of batches of the third
        with contextlib.suppress(FileNotFoundError):  # while one takes the place of the other
            written.add(last.stat().st_mtime_ns)
    children = [int(pid) for pid in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    for process in (first.pid, *children):
        os.kill(process, signal.SIGKILL)
    assert len(children) >= 2
    first.wait()
    again = start(*settings, launcher=torchrun)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output
    assert "epoch 2/6" not in output and "epoch 3/6" in output and "epoch 6/6" in output
    (tmp_path / "model").rename(tmp_path / "killed")
    whole = start(*settings, launcher=torchrun)
    output, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, output
    killed, left_alone = (checkpoint.read_weights(tmp_path / name / "model.safetensors")[0] for name in ("killed", "model"))
    assert all(torch.equal(killed[name], left_alone[name]) for name in killed)


def test_fine_tuning_starts_from_the_other_weights(train, tmp_path, finished):
    (other,) = finished.glob("results/train/*/model.safetensors")
    frozen = ["train=from_checkpoint", "train.epochs=1", "train.lr=1e-12", "train.ema_decay=0", f"train.checkpoint={other.parent}"]
    train(*frozen)
    before, _ = checkpoint.read_weights(other)
    after, _ = checkpoint.read_weights(tmp_path / "model" / "model.safetensors")
    name = "blocks.0.feed_forward1.widen.weight"
    assert (before[name] - after[name]).abs().max() < 1e-6


def test_the_first_blocks_learn_to_write_too(train, tmp_path, finished):
    """With train.intermediate_ctc, what the output layer makes of the first block alone is nearer to the words than without."""
    (features,) = finished.glob("results/features/*/*/dev.cuts.jsonl.gz")
    (tokenizer,) = finished.glob("results/tokenizer/*/tokenizer.model")
    losses = []
    for part in (0.0, 0.9):
        settings = ["model.layers=4", "train.epochs=8", "train.batch_s=8", "train.ema_decay=0", f"train.intermediate_ctc={part}"]
        train(*settings)
        recognizer = checkpoint.load(tmp_path / "model")
        (batch, *_) = batches(features, Utterances(recognizer.front_end, Tokenizer(tokenizer)), 100.0, 2, 0, False)
        (logits_btv,) = recognizer.model.logits_after([1], batch.features_btf, batch.lengths_b)
        losses.append(CtcTraining.loss(logits_btv, recognizer.model.output_lengths(batch.lengths_b), batch).mean().item())
    assert losses[1] < losses[0]


def test_two_views_of_an_utterance_come_to_one_opinion(train, tmp_path, finished):
    """With train.consistency, what masks hide changes less of what is recognized than without."""
    (features,) = finished.glob("results/features/*/*/dev.cuts.jsonl.gz")
    (tokenizer,) = finished.glob("results/tokenizer/*/tokenizer.model")
    apart = []
    for weight in (0.0, 30.0):
        train("train.epochs=10", "train.batch_s=8", "train.ema_decay=0", f"train.consistency={weight}")
        recognizer = checkpoint.load(tmp_path / "model")
        (batch, *_) = batches(features, Utterances(recognizer.front_end, Tokenizer(tokenizer)), 100.0, 2, 0, False)
        torch.manual_seed(0)
        views = [recognizer.model(spec_augment(batch.features_btf, Train()), batch.lengths_b) for _ in range(2)]
        lengths_b = recognizer.model.output_lengths(batch.lengths_b)
        apart.append(disagreement(*views, lengths_b, batch.target_lengths_b).mean().item())
    assert apart[1] < 0.5 * apart[0]


def test_weights_of_another_shape_are_refused(words, finished):
    (other,) = finished.glob("results/train/*/model.safetensors")
    message = stage_command.fails("train", *words, "train.epochs=1", "model.dim=24", f"train.checkpoint={other.parent}")
    assert "another model or tokenizer" in message


def test_a_gpu_that_is_not_there_is_told(words):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "no GPU is visible" in stage_command.fails("train", *words, "train.accelerator=gpu")
