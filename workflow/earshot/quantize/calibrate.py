"""Calibration speech: which utterances the ranges of activations are observed on, and their features."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from lhotse.cut import Cut

from earshot import windows
from earshot.config import Calib
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.errors import DataError
from earshot.features import FrontEnd
from earshot.model.streaming import StreamingConformer

MANIFEST, HELD_OUT = "train.cuts.jsonl.gz", ("dev", "test")
GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
SILENCE = 1e-4  # of full scale: what 16 bits hold as noise of a few units


@dataclass(frozen=True)
class Utterance:
    id: str
    path: str
    duration_s: float
    speaker: str


def _utterance(cut: Cut) -> Utterance:
    return Utterance(cut.id, cut.recording.sources[0].source, cut.duration, cut.supervisions[0].speaker or "")


def choose(corpus_dir: str | Path, calib: Calib) -> list[Utterance]:
    """Utterances of the training split, drawn as `calib` says.

    Raises:
        ArtifactError: a manifest is absent or damaged.
        DataError: the split has too few; or a chosen utterance, or its audio, also stands in the dev or test split.
    """
    train = training_split(corpus_dir)
    chosen = _take(SAMPLING[calib.sampling](train, random.Random(calib.seed)), calib, Path(corpus_dir, MANIFEST))
    check_apart(chosen, corpus_dir)
    return chosen


def training_split(corpus_dir: str | Path) -> list[Utterance]:
    """All utterances of the training split, by id.

    Raises:
        ArtifactError: its manifest is absent or damaged.
    """
    return sorted((_utterance(cut) for cut in load_cuts(Path(corpus_dir, MANIFEST))), key=lambda utterance: utterance.id)


def _at_random(train: list[Utterance], rng: random.Random) -> list[Utterance]:
    return rng.sample(train, len(train))


def _longest_first(train: list[Utterance], rng: random.Random) -> list[Utterance]:
    return sorted(train, key=lambda utterance: -utterance.duration_s)


def _of_all_durations(train: list[Utterance], rng: random.Random) -> list[Utterance]:
    """Any first n of them lie about evenly over the durations: steps of the golden ratio through the utterances by length."""
    by_length, start = _longest_first(train, rng), rng.random()
    steps = range(8 * len(train))  # visits each at least once
    order = dict.fromkeys(int(math.modf(start + i * GOLDEN_RATIO)[0] * len(train)) for i in steps)
    return [by_length[i] for i in order]


def _of_all_speakers(train: list[Utterance], rng: random.Random) -> list[Utterance]:
    """One of each speaker, then a second of each, and so on; each speaker's in random order."""
    turns: Counter[str] = Counter()
    turn_of = {}
    for utterance in _at_random(train, rng):
        turns[utterance.speaker] += 1
        turn_of[utterance] = turns[utterance.speaker]
    return sorted(turn_of, key=lambda utterance: turn_of[utterance])


SAMPLING = {"random": _at_random, "longest": _longest_first, "duration": _of_all_durations, "speaker": _of_all_speakers}


def _take(ordered: list[Utterance], calib: Calib, manifest: Path) -> list[Utterance]:
    """The first `calib.utterances`, or as many as last `calib.seconds`."""
    total = sum(utterance.duration_s for utterance in ordered)
    if calib.seconds is None:
        enough, asked = len(ordered) >= calib.utterances, f"calib.utterances={calib.utterances}"
    else:
        enough, asked = total >= calib.seconds, f"calib.seconds={calib.seconds:g}"
    if not enough:
        raise DataError(f"{manifest}: {len(ordered)} utterances of {total:.0f} s are too few for {asked}; ask for less, or add speech")
    if calib.seconds is None:
        return ordered[: calib.utterances]
    before = accumulate((utterance.duration_s for utterance in ordered), initial=0.0)
    return [utterance for utterance, seconds in zip(ordered, before, strict=False) if seconds < calib.seconds]


def check_apart(chosen: list[Utterance], corpus_dir: str | Path) -> None:
    """
    Raises:
        DataError: an utterance, or its audio, also stands in the dev or test split.
    """
    ids, paths = {utterance.id for utterance in chosen}, {os.path.realpath(utterance.path) for utterance in chosen}
    for manifest in (Path(corpus_dir, f"{split}.cuts.jsonl.gz") for split in HELD_OUT):
        for cut in load_cuts(manifest):
            held_out = _utterance(cut)
            if held_out.id in ids or os.path.realpath(held_out.path) in paths:
                raise DataError(
                    f"{manifest}: utterance {held_out.id} ({held_out.path}) was chosen from the training split for calibration; "
                    "what is measured on must not be calibrated on: remove it from one of the two splits"
                )


def speech(utterance: Utterance, front_end: FrontEnd) -> torch.Tensor:
    """Features [T, n_mels] of an utterance.

    Raises:
        DataError: its audio cannot be used, or is silent.
    """
    audio = read_audio(utterance.path)
    loudest = float(abs(audio).max(initial=0.0))
    if loudest < SILENCE:
        raise DataError(
            f"{utterance.path}: utterance {utterance.id} is silent (loudest sample {loudest:g}), and calibration needs speech; "
            "remove it from the training split, or set another calib.seed"
        )
    return front_end(audio)


def inputs(chosen: Iterable[Utterance], front_end: FrontEnd, window_frames: int) -> Iterator[tuple[torch.Tensor]]:
    """The network's input for each chosen utterance, [1, window_frames, n_mels].

    Raises:
        DataError: the audio of one cannot be used, or is silent.
    """
    for utterance in chosen:
        yield (windows.fit_window(speech(utterance, front_end), front_end, window_frames),)


def inputs_with_cache(
    chosen: Iterable[Utterance], front_end: FrontEnd, layout: windows.Layout, form: StreamingConformer, first_cache: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Features [1, layout.frames, n_mels] and cache [1, rows, D] of each window of the chosen utterances.

    `form` is the float model, which says what the next window is given; `first_cache` is [1, rows, D].

    Raises:
        DataError: as `inputs`.
    """
    for utterance in chosen:
        features, cache = speech(utterance, front_end), first_cache
        for piece in layout.pieces(len(features)):
            x = windows.cut(features, piece, layout, front_end.silence())[None]
            yield x, cache
            with torch.no_grad():
                _, cache = form(x, cache)
