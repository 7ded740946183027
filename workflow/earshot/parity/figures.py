"""How far a result is from what it should be, summed up piece by piece."""

from __future__ import annotations

import math

import torch

MOST_DB = 150.0  # float32 has 24 bits: what is nearer than that is the same


def decibels(signal: float, error: float) -> float:
    """The ratio of two powers in dB, between -MOST_DB and MOST_DB: figures of a JSON file are finite."""
    if signal <= 0.0:
        return MOST_DB if error <= 0.0 else -MOST_DB
    if error <= 0.0:
        return MOST_DB
    return max(-MOST_DB, min(MOST_DB, 10 * math.log10(signal / error)))


class Comparison:
    """Tensors against those that they should be."""

    def __init__(self) -> None:
        self._wanted = self._found = self._error = self._product = 0.0  # sums of squares, and of the product
        self._rows = self._agreeing = 0

    def add(self, wanted: torch.Tensor, found: torch.Tensor) -> None:
        """Both of one shape; the largest of the last axis is what `argmax_agreement` compares."""
        x, y = wanted.double().flatten(), found.double().flatten()
        self._wanted += float(x @ x)
        self._found += float(y @ y)
        self._product += float(x @ y)
        self._error += float((x - y).square().sum())
        self._rows += wanted.shape[:-1].numel()
        self._agreeing += int((wanted.argmax(-1) == found.argmax(-1)).sum())

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise: the power of what should be over that of the difference."""
        return decibels(self._wanted, self._error)

    @property
    def cosine(self) -> float:
        """Cosine of the angle between both, as vectors of all values."""
        return self._product / math.sqrt(self._wanted * self._found) if self._wanted > 0.0 < self._found else 0.0

    @property
    def argmax_agreement(self) -> float:
        """The part of the rows whose largest value is at the same place."""
        return self._agreeing / self._rows if self._rows else 1.0

    def report(self) -> dict[str, float]:
        return {"sqnr_db": round(self.sqnr_db, 2), "cosine": round(self.cosine, 6), "argmax_agreement": round(self.argmax_agreement, 6)}
