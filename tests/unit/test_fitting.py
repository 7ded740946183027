"""Training as its stage does it, in this process, on a minute of noises: what it goes on from, and what it does with what is wrong."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import lightning
import numpy as np
import pytest
import soundfile
import stage_command
import torch
from tiny_recognizer import CONFIG, noise, write_corpus

from earshot import curves, feature_store
from earshot.config import SAMPLE_RATE_HZ, Train
from earshot.corpus.manifest import load_cuts
from earshot.data import Batch, Utterances
from earshot.errors import ConfigError, DataError
from earshot.features import FrontEnd
from earshot.files import read_json
from earshot.model import Conformer, checkpoint
from earshot.tokenizer import Tokenizer
from earshot.train import CtcTraining, Memory, Speech, fitting, perturb
from earshot.train.callbacks import KeptEpochs
from earshot.train.checkpoints import TwoGenerations

WORDS = ["TURN", "ON", "OFF", "THE", "LIGHT", "STOP", "GO", "LEFT", "RIGHT"]
UTTERANCES = 24
TINY = ["model.dim=16", "model.layers=1", "model.heads=2", "model.conv_kernel=3", "model.subsampling_channels=[4,4]", "model.dropout=0.1"]
SHORT = ["tracking=off", "train.epochs=2", "train.batch_s=12", "train.buckets=2", "train.checkpoint_every_s=0", "train.kept_epochs=2"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """A folder with corpus/, tokenizer/, and features: stored/ and live/."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    seconds = list(rng.uniform(1, 3, UTTERANCES))
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 5))) for _ in range(UTTERANCES)]
    for split, count in (("train", UTTERANCES), ("dev", 4), ("test", 2)):
        write_corpus(folder / "corpus", seconds[:count], texts[:count], split)
    corpus = f"corpus_dir={folder / 'corpus'}"
    for name, stored in (("stored", "true"), ("live", "false")):
        stage_command.run("features", corpus, f"out={folder / name}", "features.jobs=1", f"features.stored={stored}")
    stage_command.run("tokenizer", corpus, f"out={folder / 'tokenizer'}", "tokenizer.vocab_size=20")
    return folder


@dataclass
class Trainer:
    """Trains with what `speech` holds, and notes which utterances it trains with."""

    speech: Path
    patch: pytest.MonkeyPatch

    def arguments(self, out: Path, *overrides: str, features: str = "stored") -> list[str]:
        paths = [f"features_dir={self.speech / features}", f"tokenizer_dir={self.speech / 'tokenizer'}", f"out={out}"]
        return [*paths, *TINY, *SHORT, *overrides]

    def __call__(self, out: Path, *overrides: str, stop: Callable[[int, int], bool] = lambda *_: False, **kwargs) -> list[list[str]]:
        """The batches trained with; it ends without a word before the one at which `stop`(epoch, number in the epoch) says so."""
        seen: list[list[str]] = []
        step = CtcTraining.training_step

        def noted(task: CtcTraining, batch: Batch, number: int) -> None:
            if stop(task.current_epoch, number):
                raise SystemExit("stopped")
            seen.append(batch.ids)
            return step(task, batch, number)

        with self.patch.context() as patch:
            patch.setattr(CtcTraining, "training_step", noted)
            try:
                stage_command.run("train", *self.arguments(out, *overrides, **kwargs))
            except SystemExit as ending:
                if ending.code != "stopped":
                    raise
        return seen

    def fails(self, out: Path, *overrides: str, **kwargs) -> str:
        return stage_command.fails("train", *self.arguments(out, *overrides, **kwargs))


@pytest.fixture
def train(speech, monkeypatch) -> Trainer:
    return Trainer(speech, monkeypatch)


@pytest.fixture(scope="module")
def plain(speech, tmp_path_factory) -> tuple[list[list[str]], Path]:
    """The batches of a training that was left alone, and its model directory."""
    out = tmp_path_factory.mktemp("plain") / "model"
    return Trainer(speech, pytest.MonkeyPatch())(out), out


def same_weights(one: Path, other: Path) -> bool:
    first, second = (checkpoint.read_weights(folder / "model.safetensors")[0] for folder in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def same_curves(one: Path, other: Path) -> bool:
    keys = ("epoch", "step", "train_loss", "dev_loss", "dev_wer", "lr")
    first, second = ([[row[key] for key in keys] for row in curves.read(folder / "curves.csv")] for folder in (one, other))
    return first == second


# ------------------------------------------------------------ going on


@pytest.fixture(scope="module")
def noises(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("musan")
    (folder / "noise" / "free-sound").mkdir(parents=True)
    for i in range(2):
        soundfile.write(folder / "noise" / "free-sound" / f"noise-{i}.wav", noise(1.5 + i, 50 + i), SAMPLE_RATE_HZ)
    return folder


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


# ------------------------------------------------------------ memory


def test_batches_that_do_not_fit_go_through_in_parts(train, plain, tmp_path, monkeypatch):
    forward = Conformer.logits_after

    def limited(self: Conformer, depths, x_btf, *rest):
        if self.training and x_btf.shape[0] * x_btf.shape[1] > 1300:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, depths, x_btf, *rest)

    monkeypatch.setattr(Conformer, "logits_after", limited)
    assert train(tmp_path / "parts", "train.accumulate=2") == plain[0]
    assert 5 < read_json(tmp_path / "parts" / "state" / "memory.json")["limit_s"] < 12
    monkeypatch.setattr(Conformer, "logits_after", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    message = train.fails(tmp_path / "none")
    assert "alone does not fit the memory" in message and "train-" in message


def test_the_gradients_of_parts_are_those_of_the_batch(speech, tmp_path):
    """Of a network whose batch normalisation does not depend on the batch."""
    front_end, tokenizer = FrontEnd.load(speech / "stored" / "front_end.json"), Tokenizer(speech / "tokenizer" / "tokenizer.model")
    dataset = Utterances(front_end, tokenizer)
    first, second = (dataset[list(load_cuts(speech / "stored" / "train.cuts.jsonl.gz"))[n : n + 6]] for n in (0, 6))
    model = Conformer(CONFIG, front_end.n_mels, len(tokenizer.pieces)).eval()
    memory = Memory(tmp_path / "memory.json", front_end)
    config = Train(silence_p=0.0, freq_masks=0, time_masks=0, accumulate=2)
    task = CtcTraining(model, config, Speech({}), dataset, memory, {})
    task.trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    task.trainer.strategy.connect(task)
    gradients, losses = [], []
    for limit_s in (math.inf, 4.0):
        memory.limit_s = limit_s
        task.zero_grad()
        losses.append([task.learn([batch], [first, second], last=True) for batch in (first, second)])
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))
    assert len(memory.parts(first)) > 2


def test_the_longest_batch_is_tried_before_the_first_step(train, plain, tmp_path, monkeypatch):
    """What a GPU does first: a training that does so here is the same as one that does not, but for smaller parts where it ran out."""
    monkeypatch.setattr(CtcTraining, "on_train_start", CtcTraining.find_memory)
    train(tmp_path / "tried")
    assert same_weights(plain[1], tmp_path / "tried")
    forward = Conformer.logits_after

    def limited(self: Conformer, depths, x_btf, *rest):
        if self.training and x_btf.shape[0] * x_btf.shape[1] > 1100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, depths, x_btf, *rest)

    monkeypatch.setattr(Conformer, "logits_after", limited)
    train(tmp_path / "smaller", "train.silence_p=0", stop=lambda *_: True)
    assert 5 < read_json(tmp_path / "smaller" / "state" / "memory.json")["limit_s"] < 11


def test_parts_of_a_batch_are_the_batch():
    lengths = torch.tensor([5, 9, 3, 7, 8])
    features = torch.arange(5 * 9 * 2.0).view(5, 9, 2)
    batch = Batch(torch.arange(6), torch.tensor([1, 2, 0, 2, 1]), list("abcde"), list("vwxyz"), 10.0, features, lengths)
    parts = batch.parts(2)
    assert [part.ids for part in parts] == [["v", "w", "x"], ["y", "z"]]
    assert torch.cat([part.targets for part in parts]).tolist() == list(range(6))
    assert [part.features_btf.shape[1] for part in parts] == [9, 8]
    assert torch.equal(parts[1].features_btf, features[3:, :8])
    assert sum(part.audio_s for part in parts) == 10.0


# ------------------------------------------------------------ what cannot be learned from


def test_a_loss_that_is_no_number_names_its_utterances(train, tmp_path, monkeypatch):
    load = feature_store.load
    monkeypatch.setattr(feature_store, "load", lambda cut: load(cut) * (math.nan if cut.id == "train-7" else 1.0))
    message = train.fails(tmp_path / "model")
    assert "no finite number" in message and "train-7" in message
    assert len([word for word in message.split() if word.startswith("train-")]) < UTTERANCES


def test_a_transcript_too_long_for_its_frames_is_named_and_left_out(train, tmp_path, speech, capsys):
    corpus = tmp_path / "corpus"
    texts = ["GO", "TURN ON THE LIGHT " * 20, "STOP", "GO LEFT"]
    write_corpus(corpus, [1.0, 1.0, 1.5, 2.0], [text.strip() for text in texts], "train")
    write_corpus(corpus, [1.0, 1.1], ["GO", "STOP"], "dev")
    stage_command.run("features", f"corpus_dir={corpus}", f"out={tmp_path / 'features'}", "features.jobs=1")
    seen = train(tmp_path / "model", "train.epochs=1", features=tmp_path / "features")
    assert {utterance for batch in seen for utterance in batch} == {"train-0", "train-2", "train-3"}
    assert "1 of 4 utterances have more pieces than output frames and are left out: train-1" in capsys.readouterr().out
    left_out = read_json(tmp_path / "model" / "state" / "left_out.json")["utterances"]["train-1"]
    assert left_out["pieces"] > left_out["output_frames"]
    assert read_json(tmp_path / "model" / "metrics.json")["left_out"] == 1


def test_features_of_another_front_end_are_refused(train, tmp_path, speech):
    other = tmp_path / "features"
    shutil.copytree(speech / "stored", other)
    front_end = FrontEnd.load(other / "front_end.json")
    FrontEnd(replace(front_end.config, f_max_hz=4000.0), front_end.mean.tolist(), front_end.std.tolist()).save(other / "front_end.json")
    assert "features of another front end" in train.fails(tmp_path / "model", features=other)


def test_another_tokenizer_or_front_end_than_that_of_the_start_weights_is_refused(train, plain, tmp_path, speech):
    start = ["train=from_checkpoint", f"train.checkpoint={plain[1]}"]
    corpus = f"corpus_dir={speech / 'corpus'}"
    stage_command.run("tokenizer", corpus, f"out={tmp_path / 'tokenizer'}", "tokenizer.vocab_size=18")
    assert "its tokenizer is another one" in train.fails(tmp_path / "model", *start, f"tokenizer_dir={tmp_path / 'tokenizer'}")
    stage_command.run(
        "features", corpus, f"out={tmp_path / 'features'}", "features.jobs=1", "features.stored=false", "features.f_max_hz=4000"
    )
    assert "its front end is another one" in train.fails(tmp_path / "model", *start, features=tmp_path / "features")


def test_perturbed_audio_needs_audio(train, tmp_path, speech):
    assert "features=logmel80_live" in train.fails(tmp_path / "model", "train.speeds=[0.9,1.1]")
    assert "no .wav files" in train.fails(tmp_path / "model", f"train.noise={tmp_path}", features="live")
    with pytest.raises(DataError, match="cannot be read"):
        (cut, *_) = load_cuts(speech / "live" / "train.cuts.jsonl.gz")
        cut.recording.sources[0].source = str(tmp_path / "gone.flac")
        Utterances(FrontEnd.load(speech / "live" / "front_end.json"), Tokenizer(speech / "tokenizer" / "tokenizer.model"))[[cut]]


# ------------------------------------------------------------ what is heard


def test_features_are_the_same_stored_and_computed_on_the_fly(speech):
    front_end, tokenizer = FrontEnd.load(speech / "live" / "front_end.json"), Tokenizer(speech / "tokenizer" / "tokenizer.model")
    stored, live = (list(load_cuts(speech / name / "train.cuts.jsonl.gz"))[:5] for name in ("stored", "live"))
    dataset = Utterances(front_end, tokenizer)
    one, other = dataset[stored], dataset[live]
    assert torch.equal(one.lengths_b, other.lengths_b) and torch.equal(one.targets, other.targets)
    assert (one.features_btf - other.features_btf).abs().max() < 0.05
    on_device = replace(dataset, on_device=True)[live].batch(front_end.to(torch.device("cpu")))
    assert torch.equal(on_device.features_btf, other.features_btf)


def test_a_manifest_longer_than_the_samplers_buffer_has_its_shards_in_random_order(speech, tmp_path):
    settings = ["features.jobs=1", "features.shard_utterances=1", "features.stored=false"]
    stage_command.run("features", f"corpus_dir={speech / 'corpus'}", f"out={tmp_path}", *settings)
    ids = [cut.id for cut in load_cuts(tmp_path / "train.cuts.jsonl.gz")]
    known = [cut.id for cut in load_cuts(speech / "corpus" / "train.cuts.jsonl.gz")]
    assert ids != known and sorted(ids) == sorted(known)
    assert [cut.id for cut in load_cuts(tmp_path / "dev.cuts.jsonl.gz")] == [f"dev-{i}" for i in range(4)]


def test_speed_noise_and_rooms(speech, noises):
    cuts = load_cuts(speech / "live" / "train.cuts.jsonl.gz")
    first, again, next_epoch = ([cut.duration for cut in perturb.at_speeds(cuts, [0.9, 1.0, 1.1], 0, epoch)] for epoch in (0, 0, 1))
    plain = [cut.duration for cut in cuts]
    ratios = {round(a / b, 2) for a, b in zip(plain, first, strict=True)}
    assert first == again != next_epoch and ratios == {0.9, 1.0, 1.1}

    said, other = noise(2.0, 1), noise(2.0, 2)
    mixed = perturb.with_noise(said, other, 10.0)
    assert 10 * np.log10(np.square(said).mean() / np.square(mixed - said).mean()) == pytest.approx(10.0, abs=0.01)
    response = np.zeros(800, np.float32)
    response[[100, 500]] = 1.0, 0.3
    heard = perturb.in_room(said, response)
    assert heard.shape == said.shape and np.argmax(np.correlate(heard, said[:-2000], "valid")) == 0
    assert np.square(heard).mean() == pytest.approx(np.square(said).mean(), rel=1e-3)

    changed = perturb.Perturbation(Train(noise_p=1.0), perturb.recordings(str(noises), "noise"), [])
    assert np.array_equal(changed(said, "a"), changed(said, "a")) and not np.array_equal(changed(said, "a"), changed(said, "b"))
    assert not np.array_equal(changed(said, "a"), replace(changed, epoch=1)(said, "a"))
    with pytest.raises(ConfigError, match="speeds"):
        Train(speeds=[0.1])


# ------------------------------------------------------------ what is kept


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


def test_a_checkpoint_and_the_metrics_say_where_they_come_from(train, plain):
    _, model = plain
    content = torch.load(model / "state" / "last.ckpt", weights_only=True)
    metrics = read_json(model / "metrics.json")
    assert metrics["provenance"] == content["provenance"]
    assert content["provenance"]["seed"] == "0" and content["provenance"]["torch"] == torch.__version__.split("+")[0]
    assert {"train_sha256", "dev_sha256", "front_end_sha256", "pieces_sha256"} <= content["provenance"].keys()
    throughput = json.loads((model / "state" / "throughput.json").read_text())
    assert metrics["throughput"] == {key: value for key, value in throughput.items() if key != "schema_version"} | {"schema_version": 1}
    assert sum(throughput["share"].values()) == pytest.approx(1.0)
    total = sum(cut.duration for cut in load_cuts(train.speech / "stored" / "train.cuts.jsonl.gz"))
    assert throughput["audio_s"] == pytest.approx(2 * total) and throughput["audio_s_per_s"] > 0


def test_fp16_scales_its_loss(train, tmp_path):
    train(tmp_path / "model", "train.precision=fp16", "train.epochs=1")
    content = torch.load(tmp_path / "model" / "state" / "last.ckpt", weights_only=True)
    assert content["MixedPrecision"]["scale"] > 1
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.read_weights(tmp_path / "model" / "model.safetensors")[0].values())


# ------------------------------------------------------------ processes


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


def test_a_place_within_an_epoch_belongs_to_its_number_of_processes(train, tmp_path):
    out = tmp_path / "model"
    train(out, stop=lambda epoch, number: number == 2)
    path = out / "state" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["training"]["processes"] = 4
    torch.save(content, path)
    assert "in the middle of an epoch by 4 processes, and here are 1" in train.fails(out)
