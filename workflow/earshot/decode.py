"""CTC best-path decoding: logits to words (Graves et al., 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from earshot.config import Decode
from earshot.tokenizer import WORD_START

BLANK_ID = 0
UNKNOWN = "<unk>"  # SentencePiece's piece for characters outside the alphabet: it has no text


@dataclass(frozen=True)
class Found:
    """What a search found: an output for each frame, and where a lexicon says it, the words and the frames at which they were complete."""

    score: float  # natural log
    path: list[int]  # outputs [T']
    completed: list[tuple[int, str]] | None = None


def best_path(logits_tv: torch.Tensor, blank_penalty: float = 0.0) -> list[int]:
    """Indices of the most likely output of each frame, repetitions merged, blanks removed.

    `logits_tv` may be logits or log-probabilities: both have the same maximum in each frame, and `blank_penalty` (natural-log units, taken
    off the blank in each frame) shifts both alike.
    """
    if blank_penalty:
        logits_tv = logits_tv.clone()
        logits_tv[:, BLANK_ID] -= blank_penalty
    merged = torch.unique_consecutive(logits_tv.argmax(dim=-1))
    return merged[merged != BLANK_ID].tolist()


def text(ids: Sequence[int], pieces: Sequence[str]) -> str:
    """The words of a sequence of outputs, one space between two."""
    return " ".join("".join(pieces[i] for i in ids if pieces[i] != UNKNOWN).replace(WORD_START, " ").split())


def decode(logits_tv: torch.Tensor, pieces: Sequence[str], config: Decode) -> str:
    """Logits [T', V] of one utterance to its words; V = len(pieces), and T' may be 0."""
    return text(best_path(logits_tv, config.blank_penalty), pieces)
