"""Convolutions and matrix products: sums of products that a float holds exactly, whatever the order of the summation."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from earshot.lower.tosa_executor.bounds import Function
from earshot.lower.tosa_executor.values import Node, Step, Value, exact_number

_Size = tuple[int, ...]  # rows, columns
TYPES = {"INT8": ("INT4", "INT8"), "INT16": ("INT8",)}  # of an input: the types of weights that TOSA has for it


def matmul(node: Node) -> Step:
    """MATMUL: [N, H, C] by [N, C, W]."""
    node.known()
    a, b = node.typed(0, "INT8", "INT16"), node.typed(1, "INT8", "INT16")
    zeros = node.scalar(2, "zero points"), node.scalar(3, "zero points")
    ranges = [(x.low - zero, x.high - zero) for x, zero in zip((a, b), zeros, strict=True)]
    corners = [x * y for x in ranges[0] for y in ranges[1]]
    count = a.shape[2]
    dtype = exact_number(count * max(abs(corner) for corner in corners))
    if dtype is None:
        raise node.refuse(f"sums of {count} products that no float holds exactly")
    low, high = count * min(corners), count * max(corners)
    return node.step(partial(_matmul, zeros=zeros, dtype=dtype), (0, 1), low, high)


def _matmul(a: torch.Tensor, b: torch.Tensor, zeros: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
    a, b = (x.to(dtype) - zero if zero else x.to(dtype) for x, zero in zip((a, b), zeros, strict=True))
    return torch.bmm(a, b)


def convolution(node: Node) -> Step:
    """CONV2D: input [N, H, W, C], weights [M, K_h, K_w, C]."""
    weights = _weights(node)
    rows = weights.reshape(len(weights), -1)  # [M, K_h K_w C]
    return _convolution(node, rows, weights.shape[1:3], partial(_windows_times, channels=weights.shape[3]), rows.T)


def depthwise(node: Node) -> Step:
    """DEPTHWISE_CONV2D: weights [K_h, K_w, C, multiplier], output channel c * multiplier + m."""
    weights = _weights(node)
    height, width, channels, multiplier = weights.shape
    rows = weights.reshape(height * width, channels * multiplier).T
    if channels == 1:  # an ordinary convolution of one channel
        return _convolution(node, rows, (height, width), partial(_windows_times, channels=1), rows.T)
    return _convolution(node, rows, (height, width), partial(_taps, multiplier=multiplier), weights.reshape(height, width, -1))


def _weights(node: Node) -> np.ndarray:
    """The weights less their zero point."""
    node.known("Pad", "Stride", "Dilation", "AccType", "LocalBound")  # the last is of tests of conformance
    x = node.typed(0, *TYPES)
    node.typed(1, *TYPES[x.dtype])
    weights, zero = node.constant(1, "weights"), node.scalar(4, "zero points")
    if zero and x.dtype != "INT8":
        raise node.refuse(f"weights with the zero point {zero}")
    return weights - zero


def _convolution(node: Node, rows: np.ndarray, kernel: tuple[int, ...], function: Function, weights: np.ndarray) -> Step:
    """A convolution whose output channel m sums inputs multiplied by rows[m].

    `function` takes the padded input, the weights in its own layout and the bias, into which the zero point of the input is folded.
    """
    x, zero = node.inputs[0], node.scalar(3, "zero points")
    pad, stride, dilation = (node.attributes[name] for name in ("Pad", "Stride", "Dilation"))
    bias = np.broadcast_to(node.constant(2, "biases"), len(rows))
    folded = bias - zero * rows.sum(axis=1)
    reach = Value(x.shape, x.dtype, min(x.low, zero), max(x.high, zero)) if any(pad) else x
    dtype = exact_number(int((np.abs(rows).sum(axis=1) * reach.magnitude + np.abs(folded)).max()))
    if dtype is None:
        raise node.refuse(f"sums of {rows.shape[1]} products that no float holds exactly")
    up, down = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
    low = int((up * reach.low + down * reach.high + folded).min())
    high = int((up * reach.high + down * reach.low + folded).max())
    prepared = partial(
        _padded,
        function=function,
        pad=(0, 0, pad[2], pad[3], pad[0], pad[1]) if any(pad) else None,
        zero=zero,
        weights=torch.from_numpy(np.ascontiguousarray(weights)).to(dtype),
        bias=torch.from_numpy(folded).to(dtype),
        kernel=kernel,
        stride=stride,
        dilation=dilation,
    )
    return node.step(prepared, (0,), low, high)


def _padded(
    x: torch.Tensor,
    *,
    function: Function,
    pad: tuple[int, ...] | None,
    zero: int,
    weights: torch.Tensor,
    bias: torch.Tensor,
    **geometry: Any,
) -> torch.Tensor:
    x = x.to(weights.dtype)
    return function(torch.nn.functional.pad(x, pad, value=zero) if pad else x, weights, bias, **geometry)


def _output(length: int, kernel: int, stride: int, dilation: int) -> int:
    return (length - 1 - (kernel - 1) * dilation) // stride + 1


def _windows_times(
    x: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor, *, channels: int, kernel: _Size, stride: _Size, dilation: _Size
) -> torch.Tensor:
    """Every window of the input as a row, times weights [K_h K_w C, M]."""
    batch, height, width, _ = x.shape
    rows, columns = (_output(n, *sizes) for n, *sizes in zip((height, width), kernel, stride, dilation, strict=True))
    if tuple(kernel) != (1, 1) or tuple(stride) != (1, 1):
        x = x.contiguous()
        of_batch, of_row, of_column, _ = x.stride()
        steps = (of_batch, of_row * stride[0], of_column * stride[1], of_row * dilation[0], of_column * dilation[1], 1)
        x = x.as_strided((batch, rows, columns, *kernel, channels), steps)
    products = torch.addmm(bias, x.reshape(batch * rows * columns, len(weights)), weights)
    return products.view(batch, rows, columns, -1)


def _taps(
    x: torch.Tensor, weights: torch.Tensor, bias: torch.Tensor, *, multiplier: int, kernel: _Size, stride: _Size, dilation: _Size
) -> torch.Tensor:
    """The sum over the places of the kernel of the input there times weights [K_h, K_w, M], value by value."""
    if multiplier > 1:
        x = x.repeat_interleave(multiplier, dim=3)
    rows, columns = (_output(n, *sizes) for n, *sizes in zip(x.shape[1:3], kernel, stride, dilation, strict=True))
    sums: Any = None
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            part = x[:, top : top + (rows - 1) * stride[0] + 1 : stride[0], left : left + (columns - 1) * stride[1] + 1 : stride[1]]
            sums = torch.addcmul(bias, part, weights[i, j]) if sums is None else sums.addcmul_(part, weights[i, j])
    return sums
