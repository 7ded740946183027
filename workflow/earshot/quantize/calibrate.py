"""Calibration speech: which utterances the ranges of activations are observed on, and their features."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from lhotse.cut import Cut

from earshot.config import Calib
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.errors import DataError
from earshot.features import FrontEnd

HELD_OUT = ("dev", "test")


@dataclass(frozen=True)
class Utterance:
    id: str
    path: str
    duration_s: float


def _utterance(cut: Cut) -> Utterance:
    return Utterance(cut.id, cut.recording.sources[0].source, cut.duration)


def choose(corpus_dir: str | Path, calib: Calib) -> list[Utterance]:
    """Utterances of the training split, at most `calib.utterances`: drawn by `calib.seed`, or the longest.

    Raises:
        ArtifactError: a manifest is absent or damaged.
        DataError: a chosen utterance, or its audio, also stands in the dev or test split.
    """
    corpus_dir = Path(corpus_dir)
    train = sorted((_utterance(cut) for cut in load_cuts(corpus_dir / "train.cuts.jsonl.gz")), key=lambda utterance: utterance.id)
    if calib.sampling == "longest":
        chosen = sorted(train, key=lambda utterance: -utterance.duration_s)[: calib.utterances]
    else:
        chosen = random.Random(calib.seed).sample(train, min(calib.utterances, len(train)))
    for split in HELD_OUT:
        _check_apart(chosen, corpus_dir / f"{split}.cuts.jsonl.gz")
    return chosen


def _check_apart(chosen: list[Utterance], manifest: Path) -> None:
    ids, paths = {utterance.id for utterance in chosen}, {os.path.realpath(utterance.path) for utterance in chosen}
    for cut in load_cuts(manifest):
        held_out = _utterance(cut)
        if held_out.id in ids or os.path.realpath(held_out.path) in paths:
            raise DataError(
                f"{manifest}: utterance {held_out.id} ({held_out.path}) was chosen from the training split for calibration; "
                "what is measured on must not be calibrated on: remove it from one of the two splits"
            )


def window_features(audio_path: str | Path, front_end: FrontEnd, window_frames: int) -> torch.Tensor:
    """The input [1, window_frames, n_mels] of an audio file: its start, padded with silence at the end.

    Raises:
        DataError: the audio cannot be used.
    """
    return fit_window(front_end(read_audio(audio_path)), front_end, window_frames)


def fit_window(features: torch.Tensor, front_end: FrontEnd, window_frames: int) -> torch.Tensor:
    """The first `window_frames` frames of features [T, n_mels], padded with silence at the end: [1, window_frames, n_mels]."""
    padding = front_end.silence().expand(max(0, window_frames - len(features)), -1)
    return torch.cat([features[:window_frames], padding]).unsqueeze(0)


def inputs(chosen: list[Utterance], front_end: FrontEnd, window_frames: int) -> Iterator[torch.Tensor]:
    """The network's input for each chosen utterance."""
    for utterance in chosen:
        yield window_features(utterance.path, front_end, window_frames)
