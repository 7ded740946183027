"""Word and character error rates, and how sure they are."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

MOST_CONFUSED = 10  # kinds of errors that are told


@dataclass(frozen=True)
class Row:
    """One utterance: what was said, what was recognized, and the fewest edits between the two."""

    id: str
    duration_s: float
    reference: str
    hypothesis: str
    hits: int
    substitutions: int
    deletions: int
    insertions: int
    characters: int  # of the reference, spaces counted
    character_errors: int

    @property
    def words(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


def compare(id: str, duration_s: float, reference: str, hypothesis: str) -> Row:
    """Align a hypothesis with its reference; either may be empty."""
    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    return Row(
        id,
        duration_s,
        reference,
        hypothesis,
        words.hits,
        words.substitutions,
        words.deletions,
        words.insertions,
        characters.hits + characters.substitutions + characters.deletions,
        characters.substitutions + characters.deletions + characters.insertions,
    )


@dataclass(frozen=True)
class Edit:
    """One error of an alignment: a word said and a word recognized, either empty where a word was inserted or deleted.

    `at` is the place of the word among the recognized ones, `of` among those that were said; of the word that is not there, the next one's.
    """

    type: str  # substitution, deletion or insertion
    said: str
    recognized: str
    of: int
    at: int


EDITS = {"substitute": "substitution", "delete": "deletion", "insert": "insertion"}  # jiwer's names and ours


def edits(reference: str, hypothesis: str) -> list[Edit]:
    """The errors of a hypothesis, by the alignment that `compare` counts."""
    said, heard = reference.split(), hypothesis.split()
    found = []
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        if chunk.type == "equal":
            continue
        one, other = said[chunk.ref_start_idx : chunk.ref_end_idx], heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for i, (word, instead) in enumerate(itertools.zip_longest(one, other, fillvalue="")):
            of, at = chunk.ref_start_idx + min(i, len(one)), chunk.hyp_start_idx + min(i, len(other))
            found.append(Edit(EDITS[chunk.type], word, instead, of, at))
    return found


def accuracy(rows: Sequence[Row], samples: int, seed: int) -> dict:
    """The accuracy of a corpus: rates as fractions of all reference words (or characters), counts, and the 95% interval of the WER.

    The interval is left out where `samples` is 0. There must be at least one reference word.
    """
    errors, words = _counts(rows)
    characters = sum(row.characters for row in rows)
    interval = {"wer_ci95": percentiles(_resample(errors, words, samples, seed))} if samples else {}
    return {
        "wer": int(errors.sum()) / int(words.sum()),
        "cer": sum(row.character_errors for row in rows) / characters,
        "hits": sum(row.hits for row in rows),
        "substitutions": sum(row.substitutions for row in rows),
        "deletions": sum(row.deletions for row in rows),
        "insertions": sum(row.insertions for row in rows),
        "words": int(words.sum()),
        "utterances": len(rows),
        **interval,
        "confused": confused(rows),
    }


def confused(rows: Sequence[Row]) -> list[list]:
    """The most frequent errors as [word said, word recognized, count], the word being empty where one was inserted or deleted."""
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        counts.update((edit.said, edit.recognized) for edit in (edits(row.reference, row.hypothesis) if row.errors else ()))
    return [[*words, count] for words, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_CONFUSED]]


def wer_difference(rows: Sequence[Row], others: Sequence[Row], samples: int, seed: int) -> dict[str, float | list[float]]:
    """WER of `rows` minus WER of `others`, two systems over the same utterances in the same order, with its 95% interval.

    Both are resampled by the same draws of utterances (Bisani and Ney, Bootstrap estimates for confidence intervals in ASR performance
    evaluation, ICASSP 2004): what makes an utterance hard for both does not widen the interval. It is left out where `samples` is 0.
    """
    errors, words = _counts(rows)
    other_errors, other_words = _counts(others)
    difference: dict[str, float | list[float]] = {
        "wer_difference": float(errors.sum() / words.sum() - other_errors.sum() / other_words.sum())
    }
    if samples:
        difference["wer_difference_ci95"] = percentiles(_resample(errors - other_errors, words, samples, seed))
    return difference


def percentiles(values: np.ndarray) -> list[float]:
    """The interval that leaves out 2.5% of the values on either side."""
    return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def _counts(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([row.errors for row in rows]), np.array([row.words for row in rows])


def _resample(errors: np.ndarray, words: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """The ratio errors / words over `samples` draws of as many utterances, with replacement; draws without a word are left out."""
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(len(words), size=len(words)) for _ in range(samples))
    sums = np.array([(errors[index].sum(), words[index].sum()) for index in drawn])
    sums = sums[sums[:, 1] > 0]
    return sums[:, 0] / sums[:, 1]
