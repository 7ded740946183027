"""RESCALE: a value less the input's zero point, times multiplier / 2^shift, rounded half up, plus the output's zero point, clamped.

A float64 computes that as floor(value * scale + offset). Where all of it fits into 53 bits nothing is rounded and the result is exact.
Otherwise it is still exact where it agrees with the integers on both sides of every step of the result, since both only ever rise with the
value; that is tried before the graph runs. What is left is computed with integers of 64 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from tosa.RoundingMode import RoundingMode

from earshot.errors import ArtifactError
from earshot.lower.tosa_executor.values import EXACT_BITS, RANGES, Node, Step

_SIGNED = ("INT8", "INT16", "INT32", "INT48")
_UNSIGNED = ("INT8", "INT16")
_ROUNDING = {code: name for name, code in vars(RoundingMode).items() if isinstance(code, int)}
MAX_STEPS = 1 << 16  # of a result of 16 bits
_Array = TypeVar("_Array", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Scaling:
    """The numbers of a RESCALE; `multiplier` and `shift` are of each channel [C], or one for all [1]."""

    multiplier: np.ndarray
    shift: np.ndarray
    zero_in: int
    zero_out: int
    least: int  # of the output
    most: int
    double_round: bool

    def exact(self, values: _Array) -> _Array:
        """By the definition, in integers of 64 bits, of values [..., C]."""
        multiplier: Any = self.multiplier
        shift: Any = self.shift
        if isinstance(values, torch.Tensor):
            multiplier, shift = torch.from_numpy(multiplier), torch.from_numpy(shift)
        less = values - self.zero_in
        product = less * multiplier + (1 << shift - 1)
        if self.double_round:
            product = product + (shift > 31) * (1 << 30) * (2 * (less >= 0) - 1)
        return ((product >> shift) + self.zero_out).clip(self.least, self.most)

    def allowed(self, channel: int, wide: bool) -> tuple[int, int]:
        """The input values for which TOSA defines a result: the scaled value and its sum with the zero point must fit into 32 bits."""
        multiplier, shift = int(self.multiplier[channel]), int(self.shift[channel])
        low, high = RANGES["INT48"] if wide else (-(1 << shift - 1), (1 << shift - 1) - 1)
        if multiplier:
            least, most = RANGES["INT32"][0] - min(self.zero_out, 0), RANGES["INT32"][1] - max(self.zero_out, 0)
            rounding = 1 << shift - 1
            extra = 1 << 30 if self.double_round and shift > 31 else 0
            low = max(low, -((-(least << shift) + rounding - extra) // multiplier))
            high = min(high, ((most + 1 << shift) - 1 - rounding - extra) // multiplier)
        return low + self.zero_in, high + self.zero_in


def rescale(node: Node) -> Step:
    node.known("Scale32", "RoundingMode", "PerChannel", "InputUnsigned", "OutputUnsigned")
    attributes, x = node.attributes, node.typed(0, *_SIGNED)
    unsigned_in, unsigned_out = attributes["InputUnsigned"], attributes["OutputUnsigned"]
    if (unsigned_in and x.dtype not in _UNSIGNED) or (unsigned_out and node.output.dtype not in _UNSIGNED):
        raise node.refuse("unsigned numbers of more than 16 bits are not known to this executor")
    rounding = _ROUNDING.get(attributes["RoundingMode"], attributes["RoundingMode"])
    if rounding not in ("SINGLE_ROUND", "DOUBLE_ROUND"):  # INEXACT_ROUND leaves the choice to whoever computes
        raise node.refuse(f"attribute RoundingMode ({rounding}) is not known to this executor")
    least, most = _range(node.output.dtype, unsigned_out)
    scaling = Scaling(
        multiplier=node.constant(1, "multipliers").reshape(-1),
        shift=node.constant(2, "shifts").reshape(-1),
        zero_in=_zero(node, 3, x.dtype, unsigned_in),
        zero_out=_zero(node, 4, node.output.dtype, unsigned_out),
        least=least,
        most=most,
        double_round=rounding == "DOUBLE_ROUND",
    )
    channels = x.shape[-1] if attributes["PerChannel"] else 1
    if len(scaling.multiplier) != channels or len(scaling.shift) != channels:
        raise node.refuse(f"{len(scaling.multiplier)} multipliers and {len(scaling.shift)} shifts for {channels} channels")
    if scaling.multiplier.min() < 0 or scaling.shift.min() < 2 or scaling.shift.max() > 62:
        raise node.refuse("a multiplier below 0 or a shift outside of 2 ... 62: what it computes is not defined (TOSA_UNPREDICTABLE)")
    low, high = _range(x.dtype, True) if unsigned_in and x.low < 0 else (x.low, x.high)
    limits = [scaling.allowed(channel, wide=not attributes["Scale32"]) for channel in range(channels)]
    allowed = max(limit[0] for limit in limits), min(limit[1] for limit in limits)
    function = _function(scaling, low, high)
    if low < allowed[0] or high > allowed[1]:
        lows, highs = (torch.tensor(end, dtype=torch.float64) for end in zip(*limits, strict=True))
        function = partial(_guarded, function=function, limits=(lows, highs), title=node.title)
        low, high = max(low, min(limit[0] for limit in limits)), min(high, max(limit[1] for limit in limits))
    results = [scaling.exact(np.full(channels, end)) for end in (low, high)]
    ends = int(results[0].min()), int(results[1].max())
    if unsigned_in or unsigned_out:
        bits_in, bits_out = _bits(x.dtype, unsigned_in), _bits(node.output.dtype, unsigned_out)
        function = partial(_unsigned, function=function, bits_in=bits_in, bits_out=bits_out)
        ends = RANGES[node.output.dtype] if unsigned_out else ends
    return node.step(function, (0,), *ends)


def _bits(dtype: str, unsigned: bool) -> int:
    return int(dtype.removeprefix("INT")) if unsigned else 0


def _range(dtype: str, unsigned: bool) -> tuple[int, int]:
    low, high = RANGES[dtype]
    return (0, high - low) if unsigned else (low, high)


def _zero(node: Node, index: int, dtype: str, unsigned: bool) -> int:
    """The zero point; only 8 bits, and unsigned 16 bits, may have another one than 0."""
    zero = node.scalar(index, "zero points")
    if zero and dtype != "INT8" and not unsigned:
        raise node.refuse(f"the zero point {zero} of {dtype}")
    return zero + (1 << _bits(dtype, True)) if unsigned and zero < 0 else zero


def _function(scaling: Scaling, low: int, high: int) -> partial:
    """The fastest way that is exact for inputs in low ... high."""
    if not (scaling.double_round and scaling.shift.max() > 31):
        for dtype, bits in EXACT_BITS.items():
            if (whole := _fits(scaling, max(abs(low), abs(high)), bits)) is not None:
                return _affine(scaling, dtype, whole)
        function = _affine(scaling, torch.float64, False)
        if _agrees(function, scaling, low, high):
            return function
    return partial(_integers, scaling=scaling)


def _fits(scaling: Scaling, magnitude: int, bits: int) -> bool | None:
    """Whether value * scale + offset needs no rounding in floats of so many bits: then, whether it is a whole number already; else None."""
    wholes = []
    for multiplier, shift in zip(scaling.multiplier.tolist(), scaling.shift.tolist(), strict=True):
        zeros = min((multiplier & -multiplier).bit_length() - 1, shift) if multiplier else shift
        multiplier, shift = multiplier >> zeros, shift - zeros
        wholes.append(shift == 0)
        unit = 1 << max(shift, 1)  # everything is a multiple of 1 / unit
        offset = unit // 2 + abs(scaling.zero_in) * multiplier * (unit >> shift) + abs(scaling.zero_out) * unit
        if magnitude * multiplier * (unit >> shift) + offset > 1 << bits:
            return None
    return all(wholes)


def _affine(scaling: Scaling, dtype: torch.dtype, whole: bool) -> partial:
    scale = scaling.multiplier / 2.0**scaling.shift
    offset = scaling.zero_out - scaling.zero_in * scale + (0.0 if whole else 0.5)
    scale, offset = (torch.from_numpy(one).to(dtype) for one in (scale, offset))
    if len(scale) == 1:
        scale, offset = scale.item(), offset.item()
    return partial(_scaled, dtype=dtype, scale=scale, offset=offset, whole=whole, least=scaling.least, most=scaling.most)


def _scaled(
    x: torch.Tensor, dtype: torch.dtype, scale: float | torch.Tensor, offset: float | torch.Tensor, whole: bool, least: int, most: int
) -> torch.Tensor:
    y = x.to(dtype)
    if isinstance(scale, torch.Tensor) or scale != 1.0:
        y = y * scale
        y += offset
    elif offset:
        y = y + offset
    elif y is x:  # what follows is done in place
        y = x.clone()
    if not whole:
        y.floor_()
    return y.clamp_(least, most)


def _agrees(function: partial, scaling: Scaling, low: int, high: int) -> bool:
    """Whether `function` is right on both sides of every step of the result between the inputs low and high, and at these."""
    ends = [scaling.exact(np.full(len(scaling.shift), end)) for end in (low, high)]
    first, last = int(ends[0].min()), int(ends[1].max())
    if last - first > MAX_STEPS or max(abs(low - scaling.zero_in), abs(high - scaling.zero_in)) > 1 << 32:
        return False
    levels = np.arange(first, last + 1)[:, None] - scaling.zero_out
    rise = scaling.zero_in + (levels - 0.5) * 2.0**scaling.shift / np.maximum(scaling.multiplier, 1)  # where the result reaches a level
    near = np.rint(rise.clip(low, high)).astype(np.int64)
    for values in (near - 1, near, near + 1):
        values = values.clip(low, high)
        if not np.array_equal(function(torch.from_numpy(values)).numpy(), scaling.exact(values)):
            return False
    return True


def _integers(x: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    return scaling.exact(x.long()).double()


def _guarded(x: torch.Tensor, function: partial, limits: tuple[torch.Tensor, torch.Tensor], title: str) -> torch.Tensor:
    low, high = limits
    over = (x < low) | (x > high)
    if over.any():
        raise ArtifactError(
            f"{title}: overflow, {int(over.sum())} values cannot be scaled within 32 bits (the first is {x[over][0].item():.0f}): "
            "what follows is not defined (TOSA_UNPREDICTABLE)"
        )
    return function(x)


def _unsigned(x: torch.Tensor, function: partial, bits_in: int, bits_out: int) -> torch.Tensor:
    """`function` between numbers that are stored as signed ones of as many bits, and are none."""
    if bits_in:
        x = torch.where(x < 0, x + (1 << bits_in), x)
    y = function(x)
    return torch.where(y >= 1 << bits_out - 1, y - (1 << bits_out), y) if bits_out else y
