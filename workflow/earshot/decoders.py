"""From logits to texts, by the method that `decode.method` names: the likeliest texts with their words' times and confidences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from earshot import word_times
from earshot.config import Decode
from earshot.decode import BLANK_ID, Found
from earshot.word_times import Word


@dataclass(frozen=True)
class Hypothesis:
    """A text of an utterance.

    `score` is in natural-log units: of the most likely path (greedy), of all paths to the text that the beam held (beam), of the best path
    with the weighted language model's score and that of the words (lm).
    """

    text: str
    score: float
    words: list[Word]


class Decoder:
    """Decodes the logits of a network whose outputs are `pieces`, blank first.

    Raises:
        ConfigError: a language model without a lexicon, or that knows no word of it.
        ArtifactError: language model or lexicon is absent or damaged, or the lexicon has other pieces.
    """

    def __init__(self, pieces: Sequence[str], config: Decode) -> None:
        self._pieces, self._config = pieces, config
        self._search: Callable[[torch.Tensor], list[Found]] = greedy
        if config.method != "greedy":
            from earshot import beam_search  # only those who ask for it need its libraries

            self._search = beam_search.open_search(pieces, config)

    def __call__(self, logits_tv: torch.Tensor, output_s: float) -> list[Hypothesis]:
        """The `nbest` best texts, the best first, at least one, no text twice.

        Args:
            logits_tv: [T', V] of an utterance, or log-probabilities; T' may be 0.
            output_s: seconds from one output frame to the next.
        """
        if not len(logits_tv):
            return [Hypothesis("", 0.0, [])]
        if self._config.blank_penalty:
            logits_tv = logits_tv.clone()
            logits_tv[:, BLANK_ID] -= self._config.blank_penalty
        log_probabilities = logits_tv.float().log_softmax(dim=-1)
        texts: dict[str, Hypothesis] = {}
        for found in self._search(log_probabilities):
            words = word_times.words(found.path, found.completed, self._pieces, log_probabilities, output_s)
            text = " ".join(word.word for word in words)
            if text not in texts:
                texts[text] = Hypothesis(text, found.score, words)
            elif self._config.method == "beam":  # other pieces of the same letters, or the same pieces with another end
                texts[text] = Hypothesis(text, _log_sum(texts[text].score, found.score), texts[text].words)
        return sorted(texts.values(), key=lambda one: -one.score)[: self._config.nbest]


def greedy(log_probabilities_tv: torch.Tensor) -> list[Found]:
    """The most likely output of each frame."""
    best = log_probabilities_tv.max(dim=-1)
    return [Found(best.values.sum().item(), best.indices.tolist())]


def _log_sum(one: float, other: float) -> float:
    return max(one, other) + math.log1p(math.exp(-abs(one - other)))
