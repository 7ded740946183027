"""Which candidates are built next: PyTorch has said what they lose, the programs built so far say how much may be lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from earshot.budget import ROUNDING, WER, exceeded
from earshot.search.proposals import Proposal
from earshot.search.trials import Trial

T = TypeVar("T")
Limits = Mapping[str, float | None]


@dataclass(frozen=True)
class Candidate:
    """A scheme as PyTorch sees it, before anything is built."""

    proposal: Proposal
    assignment: Mapping[str, str]  # part to scheme, of those that are not of the base
    loss: float  # CTC loss on calibration speech, see quantize.probe
    noise: float  # of the logits
    wer_increase: float | None  # on the dev split, against float; None: not measured
    predicted: Mapping[str, float]  # figures of objectives and budgets


def allowed(candidates: Sequence[Candidate], trials: Sequence[Trial], budget: Limits) -> list[Candidate]:
    """Candidates that may be within the budget: predicted figures within it, and less noise than what lost too many words.

    Words are few, so that a program with little noise may lose more than one with a little more: what was lost below a program that is
    within the budget bounds nothing.
    """
    built = {trial.scheme: trial for trial in trials}
    limit = budget.get(WER)
    lost = {one.noise: built[one.proposal.id].wer_increase for one in candidates if one.proposal.id in built}
    few = [noise for noise, increase in lost.items() if increase is not None and (limit is None or increase <= limit + ROUNDING)]
    too_noisy = [noise for noise, increase in lost.items() if increase is not None and noise > max(few, default=0.0) and noise not in few]
    bound = min(too_noisy, default=math.inf)
    sizes = {name: value for name, value in budget.items() if name != WER}
    return [one for one in candidates if one.noise < bound and not exceeded(one.predicted, sizes)]


def select(candidates: Sequence[Candidate], trials: Sequence[Trial], budget: Limits, objective: str, batch: int) -> list[Candidate]:
    """At most `batch` candidates to build next; none where nothing is left that may beat the best trial.

    First the best of those that lose few enough words on the dev split; then, of those that are better and noisier, and of those that are
    worse and less noisy, what halves the rest: the budget of words lies somewhere between what is known to be within it and what is not.
    For the lowest WER, those with the least noise.
    """
    built = {trial.scheme for trial in trials}
    if objective == "wer":
        left = [one for one in allowed(candidates, trials, budget) if one.proposal.id not in built]
        return sorted(left, key=lambda one: one.noise)[:batch]
    good = {trial.scheme for trial in trials if trial.status == "ok"}
    best = min((one.predicted[objective] for one in candidates if one.proposal.id in good), default=math.inf)
    left = [one for one in allowed(candidates, trials, budget) if one.proposal.id not in built and one.predicted[objective] < best]
    by_noise = front(left, lambda one: one.noise, lambda one: one.predicted[objective])
    if not by_noise:
        return []
    limit = budget.get(WER)
    fit = [one for one in by_noise if limit is None or one.wer_increase is None or one.wer_increase <= limit + ROUNDING]
    at = by_noise.index(fit[-1]) if fit else 0
    order, spans = [at], [(at + 1, len(by_noise) - 1), (0, at - 1)]
    while spans:
        first, last = spans.pop(0)
        if first <= last:
            middle = (first + last) // 2
            order.append(middle)
            spans += [(middle + 1, last), (first, middle - 1)]
    return [by_noise[i] for i in order[:batch]]


def front(found: Sequence[T], noise: Callable[[T], float], cost: Callable[[T], float]) -> list[T]:
    """Those that no other beats in both noise and cost, the least noise first."""
    kept: list[T] = []
    for one in sorted(found, key=lambda one: (noise(one), cost(one))):
        if not kept or cost(one) < cost(kept[-1]):
            kept.append(one)
    return kept
