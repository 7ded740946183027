"""A model directory that moves: its four files as they are, checked where they arrive."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from earshot.config import Features
from earshot.errors import ArtifactError, ConfigError
from earshot.model import checkpoint
from earshot.tokenizer import Tokenizer, read_pieces

FILES = (checkpoint.WEIGHTS, checkpoint.CONFIG, checkpoint.FRONT_END, checkpoint.PIECES)
NEUTRAL_KEYS = {"jobs", "shard_utterances"}  # of a front end's configuration: they change no feature


def is_model_dir(weights: Path) -> bool:
    """Whether these are the weights of a model directory, of this workflow or exported by it, and not those of another implementation."""
    return weights.name == checkpoint.WEIGHTS and (weights.parent / checkpoint.FRONT_END).is_file()


def copy(model_dir: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(model_dir / name, out / name)


def load(weights: Path, tokenizer: Path, features: Features) -> checkpoint.Recognizer:
    """The recognizer of the model directory that `weights` lie in; tokenizer (.pieces or .model) and front end are to be its own.

    Raises:
        ArtifactError: a file is absent or damaged, or the tokenizer is another.
        ConfigError: the front end is another.
    """
    recognizer = checkpoint.load(weights.parent)
    pieces = Tokenizer(tokenizer).pieces if tokenizer.suffix == ".model" else read_pieces(tokenizer)
    if pieces != recognizer.pieces:
        raise ArtifactError(f"{tokenizer}: not the tokenizer of {weights}; give tokenizer={weights.parent / checkpoint.PIECES}")
    own, asked = dataclasses.asdict(recognizer.front_end.config), dataclasses.asdict(features)
    differing = [f"features.{key}={value}" for key, value in own.items() if key not in NEUTRAL_KEYS and asked[key] != value]
    if differing:
        raise ConfigError(f"{weights}: trained with another front end; give {' '.join(differing)}, or the features= that has these values")
    return recognizer
