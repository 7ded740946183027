"""A program takes a window of fixed length: cut an utterance into windows, run each, join what they give.

The network makes one output of `factor` input frames: output k of an utterance looks at the frames from factor * k on (before attention and
convolutions mix in the rest of the window). A window that starts at input frame s = factor * a therefore gives the outputs a, a + 1, ...
of the utterance, and windows that all start on this grid can be joined output by output. Here w = 8 outputs of a window, o = 4 of them
overlap, n = 18 outputs of the utterance; each window starts w - o after the one before, but the last where it ends with the utterance:

    outputs   0 1 2 3 4 5 6 7 8 9 . . . . . . . 17
    window 0  # # # # # # - -
    window 1          - - # # # # - -
    window 2                  - - # # # - - -
    window 3                      - - - # # # # #

Joined are the outputs marked #: each pair of neighbours switches in the middle of its overlap, where both have context on both sides. An
utterance shorter than the window is padded at its end with silence, and the outputs that it would not have by itself are dropped.

A program with a cache of left context (model/streaming.py) is given the windows in order, each o before the end of the one before, where
its look-ahead begins. Of each the outputs up to there are joined, of the last all that the utterance has; it is padded as far as needed:

    window 0  # # # # - - - -
    window 1          # # # # - - - -
    window 2                  # # # # - - - -
    window 3                          # # # # # # . .
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from tqdm import tqdm

from earshot.config import SAMPLE_RATE_HZ, Window
from earshot.errors import ConfigError
from earshot.features import FrontEnd
from earshot.model.subsampling import OutputGrid


@dataclass(frozen=True)
class Piece:
    """One window of an utterance, and the part of its outputs that is joined."""

    start: int  # first input frame, a multiple of the grid's factor
    first: int  # outputs [first, last) of the utterance are taken from this window
    last: int


@dataclass(frozen=True)
class Layout:
    """How utterances are cut: window length in input frames, the overlap of two windows in outputs, and the grid that outputs lie on.

    `left` outputs before a window are known to it from a cache; 0 where each window is computed by itself.
    """

    frames: int
    overlap: int
    grid: OutputGrid
    left: int = 0

    @property
    def outputs(self) -> int:
        """Outputs of one window."""
        return self.grid.output_frames(self.frames)

    @property
    def hop(self) -> int:
        """Outputs from one window to the next."""
        return self.outputs - self.overlap

    def pieces(self, frames: int) -> list[Piece]:
        """The windows of an utterance of `frames` input frames; together they take each of its outputs exactly once.

        Without a cache, no output that is taken looks at a frame beyond the utterance unless the utterance is shorter than one window.
        """
        total = max(0, self.grid.output_frames(frames))
        if total == 0:
            return []
        end = max(0, total - self.outputs)
        if self.left:
            begins = [*range(0, end + self.hop, self.hop)]
            switches = [*begins, total]
        else:
            begins = [*range(0, end, self.hop), end]
            switches = [0, *((begin + before + self.outputs) // 2 for before, begin in pairwise(begins)), total]
        return [Piece(begin * self.grid.factor, first, last) for begin, (first, last) in zip(begins, pairwise(switches), strict=True)]


def frames_of(window: Window, front_end: FrontEnd) -> int:
    """Input frames of a window."""
    return round(window.seconds * SAMPLE_RATE_HZ / front_end.hop_length)


def layout(window_frames: int, overlap_s: float, front_end: FrontEnd, grid: OutputGrid, left_context_s: float = 0.0) -> Layout:
    """Windows of `window_frames` frames; overlap and left context are rounded up to the grid of the outputs.

    Raises:
        ConfigError: a window leaves no output beside the overlap.
    """

    def outputs(seconds: float) -> int:
        return -(-round(seconds * SAMPLE_RATE_HZ / front_end.hop_length) // grid.factor)

    overlap = outputs(overlap_s)
    made = Layout(window_frames, overlap, grid, outputs(left_context_s))
    if made.outputs <= overlap:
        seconds = window_frames * front_end.hop_length / SAMPLE_RATE_HZ
        raise ConfigError(f"window.overlap_s={overlap_s}: leaves nothing of a window of {seconds:g} s; lengthen window.seconds")
    return made


def fit_window(features: torch.Tensor, front_end: FrontEnd, window_frames: int) -> torch.Tensor:
    """The first `window_frames` frames of features [T, n_mels], padded with silence at the end: [1, window_frames, n_mels]."""
    padding = front_end.silence().expand(max(0, window_frames - len(features)), -1)
    return torch.cat([features[:window_frames], padding]).unsqueeze(0)


def cut(features: torch.Tensor, piece: Piece, layout: Layout, silence: torch.Tensor) -> torch.Tensor:
    """The input [layout.frames, n_mels] of one window: features [T, n_mels] of the utterance, padded with `silence` [n_mels] at the end."""
    part = features[piece.start : piece.start + layout.frames]
    missing = layout.frames - part.shape[0]
    return torch.cat([part, silence.expand(missing, -1)]) if missing else part


def run(
    program: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor, layout: Layout, silence: torch.Tensor, progress: bool = False
) -> torch.Tensor:
    """Joined logits [T', V] of an utterance's features [T, n_mels].

    `program` runs one window, [frames, n_mels] -> [outputs, V]. An utterance too short for a single output gives logits [0, 1]. `progress`
    shows a bar when the windows take more than some seconds.
    """
    joined = []
    pieces = layout.pieces(features.shape[0])
    for piece in tqdm(pieces, desc="windows", unit="window", leave=False, delay=2, disable=None if progress else True):
        begin = piece.start // layout.grid.factor
        joined.append(program(cut(features, piece, layout, silence))[piece.first - begin : piece.last - begin])
    return torch.cat(joined) if joined else torch.zeros(0, 1)


def run_with_cache(
    program: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    features: torch.Tensor,
    layout: Layout,
    silence: torch.Tensor,
    first_cache: torch.Tensor,
    progress: bool = False,
) -> torch.Tensor:
    """`run` with a program that is given a cache with each window, [frames, n_mels] and [rows, D], and gives that of the next beside its
    logits. The first window of an utterance is given `first_cache`.
    """
    cache = first_cache

    def one(window: torch.Tensor) -> torch.Tensor:
        nonlocal cache
        logits, cache = program(window, cache)
        return logits

    return run(one, features, layout, silence, progress)
