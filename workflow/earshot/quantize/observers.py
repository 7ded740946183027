"""Observers of activations: torchao's, those that it does not have, and which one is where."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase
from torchao.quantization.pt2e.quantizer import EdgeOrNode, QuantizationSpec

from earshot.config import CalibPart, Ranges
from earshot.errors import ConfigError
from earshot.quantize.fake import FakeActivation
from earshot.quantize.module_paths import name, paths

AVERAGING = 0.1  # weight of the newest utterance: about ten decide, of the few tens that calibration sees
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


class Resolved(UniformQuantizationObserverBase):
    """Mixed into an observer of 16 bits: it gives small tensors LEAST_STEPS too.

    Arm's scale is never below 2**-12: the 1/144 of a mean over channels is then 28 steps, which is 1.6% too little. Where it gives enough,
    the scale stays Arm's: tensors that share it need no rescaling, and that saves cycles.
    """

    def _calculate_qparams(self, min_val: torch.Tensor, max_val: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        largest = torch.maximum(min_val.abs(), max_val.abs()).max()
        if largest > 0:
            self.eps = torch.minimum(self.eps, (largest / LEAST_STEPS).clamp_min(SMALLEST_SCALE).to(self.eps))
        return super()._calculate_qparams(min_val, max_val)


def with_resolution(kind: type[UniformQuantizationObserverBase]) -> type[UniformQuantizationObserverBase]:
    """An observer's class with `Resolved` mixed in."""
    return type(f"Resolved{kind.__name__}", (Resolved, kind), {})


def resolved(spec: QuantizationSpec) -> QuantizationSpec:
    """The spec of an activation of 16 bits with `Resolved` mixed into its observer."""
    observer = spec.observer_or_fake_quant_ctr.p
    if not issubclass(observer.func, UniformQuantizationObserverBase):
        return spec
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=with_resolution(observer.func).with_args(**observer.keywords))


def kind(ranges: Ranges) -> tuple[type[UniformQuantizationObserverBase], dict[str, Any]]:
    """The class of the observer that finds such ranges, and its settings."""
    return {
        "histogram": (HistogramObserver, {}),
        "minmax": (MinMaxObserver, {}),
        "average": (MovingAverageMinMaxObserver, {"averaging_constant": AVERAGING}),
        "percentile": (PercentileObserver, {"percentile": ranges.percentile}),
    }[ranges.observer]


def choose(parts: Sequence[CalibPart], found: dict[EdgeOrNode, Any]) -> None:
    """Give the activations of some modules other observers.

    Args:
        found: what observes each result of an operator and each tensor on its way into one, as prepare_pt2e has it; it is changed.

    Raises:
        ConfigError: no activation is made in a module of such a name.
    """
    unused = {part.modules for part in parts}
    chosen: dict[int, tuple[Any, Any]] = {}  # an observer may stand at several places, and stays one
    for place, observer in found.items():
        maker = place[0] if isinstance(place, tuple) else place
        if maker.op == "get_attr":
            continue  # weights
        part = next((part for part in parts if _made_in(maker, part.modules)), None)
        unused -= {part.modules} if part else set()
        if id(observer) not in chosen:
            chosen[id(observer)] = (observer, _with_ranges(observer, part) if part else observer)
        found[place] = chosen[id(observer)][1]
    if unused:
        makers = (place for place in found if isinstance(place, fx.Node))
        known = ", ".join(filter(None, dict.fromkeys(name(path) for maker in makers for path in paths(maker))))
        raise ConfigError(f"calib.parts: {', '.join(sorted(unused))}: no module of such a name makes an activation; modules are {known}")


def _made_in(maker: fx.Node, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name(path), pattern) for path in paths(maker))


def _with_ranges(observer: Any, ranges: Ranges) -> Any:
    """An observer of the same numbers that finds other ranges; one whose range is fixed (a softmax's) stays."""
    if isinstance(observer, FakeActivation):
        observer.observe_with(_with_ranges(observer.activation_post_process, ranges))
        return observer
    if not isinstance(observer, HistogramObserver | MinMaxObserver):  # that of averages is one of MinMaxObserver's
        return observer
    made, settings = kind(ranges)
    made = with_resolution(made) if isinstance(observer, Resolved) else made
    numbers = {key: getattr(observer, key) for key in ("dtype", "qscheme", "quant_min", "quant_max")}
    return made(**numbers, eps=float(observer.eps), **settings)
