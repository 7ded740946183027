"""The words of steps that take seconds."""

from __future__ import annotations

from pathlib import Path


def features_of(noises: Path, out: Path) -> list[str]:
    """The words of the features step."""
    return [f"corpus_dir={noises / 'corpus'}", f"out={out}", "features.jobs=1", "features.shard_utterances=4"]


def training_of(noises: Path, out: Path, features: Path | None = None) -> list[str]:
    """The words of a training of seconds, with a checkpoint after each batch."""
    model = ["model.dim=16", "model.layers=1", "model.heads=2", "model.conv_kernel=3", "model.subsampling_channels=[4,4]"]
    training = ["tracking=off", "train.epochs=2", "train.batch_s=6", "train.buckets=2", "train.checkpoint_every_s=0"]
    return [f"features_dir={features or noises / 'features'}", f"tokenizer_dir={noises / 'tokenizer'}", f"out={out}", *model, *training]
