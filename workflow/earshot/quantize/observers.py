"""Observers of activations: torchao's, those that it does not have, and which one is where."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torchao.quantization.pt2e import DerivedObserverOrFakeQuantize, HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase
from torchao.quantization.pt2e.quantizer import EdgeOrNode, QuantizationSpec

from earshot.config import CalibPart, Ranges
from earshot.errors import ConfigError
from earshot.quantize.fake import FakeActivation
from earshot.quantize.module_paths import name, paths

AVERAGING = 0.1  # weight of the newest utterance: about ten decide, of the few tens that calibration sees
LEAST_STEPS = 1024  # on either side of zero, of 32,767: what Arm's smallest scale, 2**-12, gives to a tensor that reaches 1/4
SMALLEST_SCALE = 2.0**-24
SMALLEST_RANGE = 1e-30  # of which the inverse is a number of 32 bits still
TABLES = {"silu": torch.nn.functional.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "exp": torch.exp}  # flat at an end


class QuickHistogramObserver(HistogramObserver):
    """torchao's observer, which counts values within the range that it has seen several times faster.

    That is nearly all that it is given. A value at the edge of two of its 2,048 bins may be counted in the other one.
    """

    found: tuple[torch.Tensor, torch.Tensor] | None = None  # the range of what has been seen: conversion asks for it several times

    def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The smallest and the largest value of the range: where torchao's observer, once it has seen something, looks for its own."""
        if self.found is None:
            self.found = self.search()
        return self.found

    def search(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The range whose rounding changes the values seen least."""
        return super()._non_linear_param_search()

    def forward(self, x_orig: torch.Tensor) -> torch.Tensor:
        self.found = None
        low, high = float(self.min_val), float(self.max_val)
        if x_orig.numel() and SMALLEST_RANGE < high - low < math.inf:
            x = x_orig.detach()
            least, greatest = map(float, torch.aminmax(x))
            if low <= least and greatest <= high:
                places = (x.flatten() - low).mul_(self.bins / (high - low)).int()  # a range may be narrow and far from 0
                counts = torch.bincount(places, minlength=self.bins + 1)
                counts[self.bins - 1] += counts[self.bins]  # the greatest value ends the last bin
                self.histogram.add_(counts[: self.bins])
                return x_orig
        return super().forward(x_orig)


class PercentileObserver(QuickHistogramObserver):
    """The range between two percentiles of all values seen: `percentile`, and as much on the other side; to a bin of the histogram."""

    def __init__(self, percentile: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.percentile = percentile

    def search(self) -> tuple[torch.Tensor, torch.Tensor]:
        share = self.histogram.double().cumsum(0) / self.histogram.double().sum()
        outside = 1 - self.percentile / 100
        width = (self.max_val - self.min_val) / self.bins
        first = torch.searchsorted(share, outside, right=True)  # the first bin that is not wholly outside
        last = torch.searchsorted(share, 1 - outside)
        return self.min_val + width * first, self.min_val + width * (last.clamp_max(self.bins - 1) + 1)


class TableInputObserver(QuickHistogramObserver):
    """The range whose rounding changes least what a function makes of the values: for an activation that nothing else reads.

    What lies where the function is flat need not be in the range: the values far below zero that silu makes nearly zeros of cost
    torchao's observer half of its steps.
    """

    ENDS = 99  # places on either side of zero where the range may end, evenly spread
    TURNS = 2  # each end is looked for twice, the other one as it was found last

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], **settings: Any) -> None:
        super().__init__(**settings)
        self.function = function

    def search(self) -> tuple[torch.Tensor, torch.Tensor]:
        width = (self.max_val - self.min_val) / self.bins
        values = self.min_val + width * (torch.arange(self.bins) + 0.5)
        wanted = self.function(values)
        low, high = self.min_val.clamp_max(0), self.max_val.clamp_min(0)

        def errors(lows: torch.Tensor, highs: torch.Tensor) -> torch.Tensor:
            step = ((highs - lows) / (self.quant_max - self.quant_min)).clamp_min(self.eps)[:, None]
            zero = self.quant_min - (lows[:, None] / step).round()
            integers = ((values / step).round() + zero).clamp(self.quant_min, self.quant_max)
            return ((self.function((integers - zero) * step) - wanted).square() * self.histogram).sum(1)

        parts = torch.arange(1, self.ENDS + 1) / self.ENDS
        lows, highs = low * parts, high * parts
        for _ in range(self.TURNS):
            low = lows[errors(lows, high.expand_as(lows)).argmin()]
            high = highs[errors(low.expand_as(highs), highs).argmin()]
        return low, high


class Resolved(UniformQuantizationObserverBase):
    """Mixed into an observer of 16 bits: it gives small tensors LEAST_STEPS too.

    Arm's scale is never below 2**-12: the 1/144 of a mean over channels is then 28 steps, which is 1.6% too little. Where it gives enough,
    the scale stays Arm's: tensors that share it need no rescaling, and that saves cycles.
    """

    eps: torch.Tensor

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
        "histogram": (QuickHistogramObserver, {}),
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
    for observer, makers in _places(found):
        fitting = [next((part for part in parts if _made_in(maker, part.modules)), None) for maker in makers]
        unused.difference_update(part.modules for part in fitting if part)
        if fitting[0]:
            _put(found, observer, _with_ranges(observer, *kind(fitting[0])), makers)
    if unused:
        made = (place for place in found if isinstance(place, fx.Node))
        known = ", ".join(filter(None, dict.fromkeys(name(path) for maker in made for path in paths(maker))))
        raise ConfigError(f"calib.parts: {', '.join(sorted(unused))}: no module of such a name makes an activation; modules are {known}")


def follow_tables(found: dict[EdgeOrNode, Any]) -> None:
    """Give what is read by one function alone, and observed with a histogram of 8 bits, the range that is best for the results of the
    function, and the results a range of their own.

    An NPU makes such a result by a look-up in a table of 256 values, so that its range is free; Arm's quantizer gives silu's the range of
    what silu reads, which is several times too wide.

    Args:
        found: as in `choose`.
    """
    for observer, makers in _places(found):
        behind = _behind_tables(makers)
        if behind and len(behind) < len(makers):
            own = copy.deepcopy(observer)
            _put(found, observer, own, behind)
    for observer, makers in _places(found):
        histogram = observer.activation_post_process if isinstance(observer, FakeActivation) else observer
        readers = {_function(reader) for maker in makers for reader in maker.users}
        function = TABLES.get(readers.pop()) if len(readers) == 1 else None
        if function is not None and type(histogram) is QuickHistogramObserver and histogram.quant_max - histogram.quant_min <= 255:
            _put(found, observer, _with_ranges(observer, TableInputObserver, {"function": function}), makers)


def _function(node: fx.Node) -> str:
    return getattr(node.target, "_opname", "")


def _behind_tables(makers: list[fx.Node]) -> list[fx.Node]:
    """Of makers whose results share a range: the functions with a table, and those that go on with what they give."""
    behind: list[fx.Node] = []
    for maker in makers:  # in the order of the program
        if _function(maker) in TABLES or any(given in behind for given in maker.all_input_nodes):
            behind.append(maker)
    return behind


def _maker(place: EdgeOrNode) -> fx.Node:
    return place[0] if isinstance(place, tuple) else place


def _places(found: dict[EdgeOrNode, Any]) -> list[tuple[Any, list[fx.Node]]]:
    """Each observer of activations, which may stand at several places, and what makes the tensors there, in the order of the program."""
    observers: dict[int, tuple[Any, dict[fx.Node, None]]] = {}
    for place, observer in found.items():
        if _maker(place).op != "get_attr":  # weights
            observers.setdefault(id(observer), (observer, {}))[1][_maker(place)] = None
    return [(observer, sorted(makers)) for observer, makers in observers.values()]


def _put(found: dict[EdgeOrNode, Any], old: Any, new: Any, makers: list[fx.Node]) -> None:
    """Put `new` in the place of `old` at what `makers` make, and in what the scales of biases there are derived from."""
    found.update({place: new for place, observer in found.items() if observer is old and _maker(place) in makers})
    for place, observer in found.items():
        if isinstance(observer, DerivedObserverOrFakeQuantize) and any(given in makers for given in place[1].all_input_nodes):
            observer.obs_or_fqs = [new if one is old else one for one in observer.obs_or_fqs]


def _made_in(maker: fx.Node, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name(path), pattern) for path in paths(maker))


def _with_ranges(observer: Any, made: type[UniformQuantizationObserverBase], settings: dict[str, Any]) -> Any:
    """An observer of the same numbers, of another class; one whose range is fixed (a softmax's) stays."""
    if isinstance(observer, FakeActivation):
        observer.observe_with(_with_ranges(observer.activation_post_process, made, settings))
        return observer
    if not isinstance(observer, HistogramObserver | MinMaxObserver):  # that of averages is one of MinMaxObserver's
        return observer
    made = with_resolution(made) if isinstance(observer, Resolved) else made
    numbers = {key: getattr(observer, key) for key in ("dtype", "qscheme", "quant_min", "quant_max")}
    return made(**numbers, eps=float(observer.eps), **settings)
