"""Observers of activations that torchao does not have."""

from __future__ import annotations

import dataclasses

import torch
from torchao.quantization.pt2e import HistogramObserver
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase
from torchao.quantization.pt2e.quantizer import QuantizationSpec

LEAST_STEPS = 1024  # on either side of zero, of 32,767: what Arm's smallest scale, 2**-12, gives to a tensor that reaches 1/4
SMALLEST_SCALE = 2.0**-24


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


def resolved(spec: QuantizationSpec) -> QuantizationSpec:
    """The spec of an activation of 16 bits whose observer gives small tensors LEAST_STEPS too.

    Arm's scale is never below 2**-12: the 1/144 of a mean over channels is then 28 steps, which is 1.6% too little. Where it gives enough,
    the scale stays Arm's: tensors that share it need no rescaling, and that saves cycles.
    """
    observer = spec.observer_or_fake_quant_ctr.p
    if not issubclass(observer.func, UniformQuantizationObserverBase):
        return spec

    class Resolved(observer.func):
        def _calculate_qparams(self, min_val: torch.Tensor, max_val: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            largest = torch.maximum(min_val.abs(), max_val.abs()).max()
            if largest > 0:
                self.eps = torch.minimum(self.eps, (largest / LEAST_STEPS).clamp_min(SMALLEST_SCALE).to(self.eps))
            return super()._calculate_qparams(min_val, max_val)

    return dataclasses.replace(spec, observer_or_fake_quant_ctr=Resolved.with_args(**observer.keywords))
