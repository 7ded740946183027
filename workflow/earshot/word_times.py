"""Words of a path through the outputs: when each is said, and how sure the network is of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from earshot.decode import BLANK_ID, UNKNOWN
from earshot.tokenizer import WORD_START


@dataclass(frozen=True)
class Word:
    """A recognized word.

    Output frame t stands for the seconds from t to t + 1 times the length of a frame; a word goes from its first piece's first frame to
    its last piece's last one. CTC emits a piece in few frames, somewhere within its sound, so that words look shorter than they are.
    `confidence` is the posterior probability of its least likely piece, in that piece's best frame.
    """

    word: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class Span:
    """A piece and the frames [start, end) in which it is emitted."""

    piece: int
    start: int
    end: int


def spans(path: Sequence[int]) -> list[Span]:
    """The pieces of a path: repetitions are one piece, blanks none."""
    found, start = [], 0
    for piece, run in itertools.groupby(path):
        end = start + sum(1 for _ in run)
        if piece != BLANK_ID:
            found.append(Span(piece, start, end))
        start = end
    return found


def words(
    path: Sequence[int],
    completed: Sequence[tuple[int, str]] | None,
    pieces: Sequence[str],
    log_probabilities_tv: torch.Tensor,
    output_s: float,
) -> list[Word]:
    """The words of a path of outputs [T'].

    Args:
        completed: for each word the frame by which its last piece has begun; None where the pieces themselves say where words begin.
        log_probabilities_tv: [T', V], what the confidences are taken from.
        output_s: seconds of an output frame.
    """
    grouped = _by_pieces(spans(path), pieces) if completed is None else _by_lexicon(spans(path), completed)
    return [
        Word(text, round(of[0].start * output_s, 3), round(of[-1].end * output_s, 3), _confidence(of, log_probabilities_tv))
        for text, of in grouped
    ]


def _by_pieces(found: Sequence[Span], pieces: Sequence[str]) -> list[tuple[str, list[Span]]]:
    """Words begin where a piece has the mark of a beginning, as in `earshot.decode.text`."""
    grouped: list[tuple[str, list[Span]]] = []
    text = ""
    of: list[Span] = []
    for span in found:
        piece = pieces[span.piece]
        if piece == UNKNOWN:
            continue
        for i, part in enumerate(piece.split(WORD_START)):
            if i:
                grouped.append((text, of))
                text, of = "", []
            if part:
                text, of = text + part, [*of, span]
    return [(text, of) for text, of in [*grouped, (text, of)] if text]


def _by_lexicon(found: Sequence[Span], completed: Sequence[tuple[int, str]]) -> list[tuple[str, list[Span]]]:
    """A word has the pieces that began since the word before was complete."""
    grouped, first = [], 0
    for frame, text in completed:
        last = next((i for i in range(first, len(found)) if found[i].start > frame), len(found))
        grouped.append((text, list(found[first:last])))
        first = last
    return grouped


def _confidence(of: Sequence[Span], log_probabilities_tv: torch.Tensor) -> float:
    return round(math.exp(min(log_probabilities_tv[span.start : span.end, span.piece].max().item() for span in of)), 4)
