"""Batches that do not fit the memory go through it in parts, and the training is the same."""

from __future__ import annotations

import math

import lightning
import pytest
import torch
from small_training import same_weights
from tiny_recognizer import CONFIG

from earshot.config import Train
from earshot.corpus.manifest import load_cuts
from earshot.data import Batch, Utterances
from earshot.features import FrontEnd
from earshot.files import read_json
from earshot.model import Conformer
from earshot.tokenizer import Tokenizer
from earshot.train import CtcTraining, Memory, Speech

pytestmark = pytest.mark.xdist_group("fitting")


def run_out_of_memory_above(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """The network as on a GPU on which batches of no more than this many frames, padding included, fit."""
    forward = Conformer.logits_after

    def limited(self: Conformer, depths, x_btf, *rest):
        if self.training and x_btf.shape[0] * x_btf.shape[1] > frames:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, depths, x_btf, *rest)

    monkeypatch.setattr(Conformer, "logits_after", limited)


def test_batches_that_do_not_fit_go_through_in_parts(train, plain, tmp_path, monkeypatch):
    run_out_of_memory_above(monkeypatch, 1300)
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
    run_out_of_memory_above(monkeypatch, 1100)
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
