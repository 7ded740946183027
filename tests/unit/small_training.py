"""Training as its stage does it, in this process, on a minute of noises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import stage_command
import torch
from tiny_recognizer import noise, write_corpus

from earshot import curves
from earshot.config import SAMPLE_RATE_HZ
from earshot.data import Batch
from earshot.model import checkpoint
from earshot.train import CtcTraining

WORDS = ["TURN", "ON", "OFF", "THE", "LIGHT", "STOP", "GO", "LEFT", "RIGHT"]
UTTERANCES = 24
TINY = ["model.dim=16", "model.layers=1", "model.heads=2", "model.conv_kernel=3", "model.subsampling_channels=[4,4]", "model.dropout=0.1"]
SHORT = ["tracking=off", "train.epochs=2", "train.batch_s=12", "train.buckets=2", "train.checkpoint_every_s=0", "train.kept_epochs=2"]


def write_speech(folder: Path) -> Path:
    """A folder with corpus/, tokenizer/, and features: stored/ and live/."""
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


def write_noises(folder: Path) -> Path:
    """A folder of two noises, as those of MUSAN lie."""
    (folder / "noise" / "free-sound").mkdir(parents=True)
    for i in range(2):
        soundfile.write(folder / "noise" / "free-sound" / f"noise-{i}.wav", noise(1.5 + i, 50 + i), SAMPLE_RATE_HZ)
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


def same_weights(one: Path, other: Path) -> bool:
    first, second = (checkpoint.read_weights(folder / "model.safetensors")[0] for folder in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def same_curves(one: Path, other: Path) -> bool:
    keys = ("epoch", "step", "train_loss", "dev_loss", "dev_wer", "lr")
    first, second = ([[row[key] for key in keys] for row in curves.read(folder / "curves.csv")] for folder in (one, other))
    return first == second
