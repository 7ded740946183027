"""Operators that compute each value of the output from one value of each input, and reductions along an axis."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from earshot.lower.tosa_executor.bounds import within
from earshot.lower.tosa_executor.values import RANGES, Node, Step, Value, exact_number, number

INTEGERS = ("INT8", "INT16", "INT32")


def add(node: Node) -> Step:
    node.known()
    a, b = node.typed(0, "INT32"), node.typed(1, "INT32")
    low, high = a.low + b.low, a.high + b.high
    return node.step(partial(_add, dtype=number(max(-low, high))), (0, 1), low, high)


def subtract(node: Node) -> Step:
    node.known()
    a, b = node.typed(0, "INT32"), node.typed(1, "INT32")
    low, high = a.low - b.high, a.high - b.low
    return node.step(partial(_subtract, dtype=number(max(-low, high))), (0, 1), low, high)


def _add(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.add(a.to(dtype), b.to(dtype))


def _subtract(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.sub(a.to(dtype), b.to(dtype))


def multiply(node: Node) -> Step:
    """MUL: products of INT32 are shifted right with rounding, or, without a shift, cut to their lower 32 bits."""
    node.known()
    a, b = node.typed(0, *INTEGERS), node.typed(1, *INTEGERS)
    shift = node.scalar(2, "shifts") if len(node.inputs) > 2 else 0
    if not 0 <= shift <= 63 or (shift and a.dtype != "INT32"):
        raise node.refuse(f"a shift of {shift} bits")
    corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    low, high = min(corners), max(corners)
    if shift:
        rounding = 1 << shift - 1
        exact = exact_number(max(-low, high) + rounding)
        low, high = low + rounding >> shift, high + rounding >> shift
        function = partial(_shifted, shift=shift) if exact is None else partial(_scaled, shift=shift, dtype=exact)
        return node.step(function, (0, 1), low, high)
    least, most = RANGES["INT32"]
    if low < least or high > most:
        return Step(_wrapped, (0, 1), least, most)
    return node.step(partial(_multiply, dtype=number(max(-low, high))), (0, 1), low, high)


def _multiply(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.mul(a.to(dtype), b.to(dtype))


def _scaled(a: torch.Tensor, b: torch.Tensor, shift: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.mul(a.to(dtype), b.to(dtype)).add_(2.0 ** (shift - 1)).mul_(2.0**-shift).floor_()


def _shifted(a: torch.Tensor, b: torch.Tensor, shift: int) -> torch.Tensor:
    return (a.long() * b.long() + (1 << shift - 1) >> shift).double()


def _wrapped(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.long() * b.long()).int().double()


def maximum(node: Node) -> Step:
    node.known("NanMode")  # of floats
    a, b = node.typed(0, "INT32"), node.typed(1, "INT32")
    return node.step(torch.maximum, (0, 1), max(a.low, b.low), max(a.high, b.high))


def minimum(node: Node) -> Step:
    node.known("NanMode")
    a, b = node.typed(0, "INT32"), node.typed(1, "INT32")
    return node.step(torch.minimum, (0, 1), min(a.low, b.low), min(a.high, b.high))


def absolute(node: Node) -> Step:
    node.known()
    x = node.typed(0, "INT32")
    return node.step(torch.abs, (0,), 0 if x.low <= 0 <= x.high else min(abs(x.low), abs(x.high)), x.magnitude)


def negate(node: Node) -> Step:
    """NEGATE: the other sign about a zero point each for input and output; what leaves the type is cut off."""
    node.known()
    x = node.typed(0, "INT8", "INT16")
    total = node.scalar(1, "zero points") + node.scalar(2, "zero points")
    least, most = RANGES[x.dtype]
    low, high = (min(max(end, least), most) for end in (total - x.high, total - x.low))
    return node.step(partial(_negate, total=total, low=least, high=most), (0,), low, high)


def _negate(x: torch.Tensor, total: int, low: int, high: int) -> torch.Tensor:
    return torch.sub(total, x).clamp_(low, high)


def clamp(node: Node) -> Step:
    node.known("MinVal", "MaxVal", "NanMode")
    x = node.typed(0, "INT8", "INT16")
    low, high = (int.from_bytes(bytes(node.attributes[name]), "little", signed=True) for name in ("MinVal", "MaxVal"))
    ends = [min(max(end, low), high) for end in (x.low, x.high)]
    return node.step(partial(torch.clamp, min=low, max=high), (0,), *ends)


def table(node: Node) -> Step:
    """TABLE: 256 entries for 8 bits; 513 for 16 bits, and 7 bits of fraction interpolate between them, with 7 bits more in the result."""
    node.known()
    x, entries = node.typed(0, "INT8", "INT16"), node.constant(1, "tables")
    least, most = RANGES[x.dtype]
    numbers = np.arange(least, most + 1)
    if x.dtype == "INT8":
        if entries.shape != (256,) or node.output.dtype != "INT8":
            raise node.refuse(f"a table of {entries.size} entries with results of type {node.output.dtype} for 8 bits")
        results, jumps = entries, np.empty(0, dtype=np.int64)
    else:
        if entries.shape != (513,) or node.output.dtype != "INT32":
            raise node.refuse(f"a table of {entries.size} entries with results of type {node.output.dtype} for 16 bits")
        slopes = np.diff(entries)
        index, fraction = (numbers >> 7) + 256, numbers & 127
        results = (entries[index] << 7) + slopes[index] * fraction
        jumps = np.flatnonzero((slopes < least) | (slopes > most))  # steeper than the specification allows
    reached = results[(numbers >= x.low) & (numbers <= x.high)]
    low, high = int(reached.min()), int(reached.max())
    # torch.take counts negative indices from the end.
    order = torch.from_numpy(np.roll(results, least)).to(Value.constant(reached, "INT32").number)
    steep = tuple((int(jump) - 256 << 7, (int(jump) - 255 << 7) - 1) for jump in jumps)
    return node.step(partial(_look_up, entries=order, steep=steep, title=node.title), (0,), low, high)


def _look_up(x: torch.Tensor, entries: torch.Tensor, steep: tuple[tuple[int, int], ...], title: str) -> torch.Tensor:
    for low, high in steep:
        inside = x[(x >= low) & (x <= high)]
        if inside.numel():
            within(inside, 1, 0, f"{title}: slope out of 16 bits")
    return torch.take(entries, x.long())


def reduce_sum(node: Node) -> Step:
    node.known("Axis")
    x, axis = node.typed(0, "INT32"), node.attributes["Axis"]
    count = x.shape[axis]
    low, high = count * x.low, count * x.high
    partial_sums = max(-count * min(x.low, 0), count * max(x.high, 0))
    if partial_sums > RANGES["INT32"][1]:  # TOSA asks of each partial sum, in order, that it fits
        return node.step(partial(_sum_in_order, axis=axis, title=node.title), (0,), *RANGES["INT32"])
    return node.step(partial(_sum, axis=axis, dtype=number(partial_sums)), (0,), low, high)


def _sum(x: torch.Tensor, axis: int, dtype: torch.dtype) -> torch.Tensor:
    return x.sum(axis, keepdim=True, dtype=dtype)


def _sum_in_order(x: torch.Tensor, axis: int, title: str) -> torch.Tensor:
    sums = within(x.double().cumsum(axis), *RANGES["INT32"], title)
    return sums.narrow(axis, x.shape[axis] - 1, 1)


def reduce_max(node: Node) -> Step:
    node.known("Axis", "NanMode")
    x = node.typed(0, *INTEGERS)
    return node.step(partial(torch.amax, dim=node.attributes["Axis"], keepdim=True), (0,), x.low, x.high)


def reduce_min(node: Node) -> Step:
    node.known("Axis", "NanMode")
    x = node.typed(0, *INTEGERS)
    return node.step(partial(torch.amin, dim=node.attributes["Axis"], keepdim=True), (0,), x.low, x.high)


def max_pool(node: Node) -> Step:
    node.known("Kernel", "Stride", "Pad", "NanMode")
    x = node.typed(0, "INT8", "INT16")
    kernel, stride, pad = (node.attributes[name] for name in ("Kernel", "Stride", "Pad"))
    return node.step(partial(_max_pool, kernel=kernel, stride=stride, pad=pad), (0,), x.low, x.high)


def _max_pool(x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], pad: tuple[int, ...]) -> torch.Tensor:
    x_nchw = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (pad[2], pad[3], pad[0], pad[1]), value=-math.inf)
    return torch.nn.functional.max_pool2d(x_nchw, kernel, stride).permute(0, 2, 3, 1)
