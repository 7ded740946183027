"""Observers of activations that torchao does not have."""

from __future__ import annotations

import torch
from torchao.quantization.pt2e import HistogramObserver


class PercentileObserver(HistogramObserver):
    """The range between two percentiles of all values seen: `percentile`, and as much on the other side; to a bin of the histogram."""

    def __init__(self, percentile: float, **settings) -> None:
        super().__init__(**settings)
        self.percentile = percentile

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point. An observer that has seen nothing gives what torchao's gives: 1 and 0, with a warning."""
        if self.min_val > self.max_val:
            return super().calculate_qparams()
        return self._calculate_qparams(*self.bounds())

    def bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The smallest and the largest value of the range."""
        share = self.histogram.double().cumsum(0) / self.histogram.double().sum()
        outside = 1 - self.percentile / 100
        width = (self.max_val - self.min_val) / self.bins
        first = torch.searchsorted(share, outside, right=True)  # the first bin that is not wholly outside
        last = torch.searchsorted(share, 1 - outside)
        return self.min_val + width * first, self.min_val + width * (last.clamp_max(self.bins - 1) + 1)
