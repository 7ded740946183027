"""Operators that move values and compute none."""

from __future__ import annotations

from functools import partial

import torch

from earshot.lower.tosa_executor.bounds import Function
from earshot.lower.tosa_executor.values import Node, Step


def _unchanged(node: Node, function: Function, *indices: int) -> Step:
    values = [node.inputs[i] for i in indices]
    return node.step(function, indices, min(value.low for value in values), max(value.high for value in values))


def identity(node: Node) -> Step:
    node.known()
    return _unchanged(node, _same, 0)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def reshape(node: Node) -> Step:
    node.known()
    shape = tuple(node.constant(1, "shapes").tolist())
    return _unchanged(node, partial(torch.reshape, shape=shape), 0)


def transpose(node: Node) -> Step:
    node.known("Perms")
    return _unchanged(node, partial(torch.permute, dims=node.attributes["Perms"]), 0)


def cut(node: Node) -> Step:
    """SLICE."""
    node.known()
    start, size = node.constant(1, "starts").tolist(), node.constant(2, "sizes").tolist()
    shape = node.inputs[0].shape
    parts = tuple((axis, first, length) for axis, (first, length) in enumerate(zip(start, size, strict=True)) if length != shape[axis])
    return _unchanged(node, partial(_narrow, parts=parts), 0)


def _narrow(x: torch.Tensor, parts: tuple[tuple[int, int, int], ...]) -> torch.Tensor:
    for axis, first, length in parts:
        x = x.narrow(axis, first, length)
    return x


def concat(node: Node) -> Step:
    node.known("Axis")
    return _unchanged(node, partial(_concat, axis=node.attributes["Axis"]), *range(len(node.inputs)))


def _concat(*tensors: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.cat(tensors, axis)


def pad(node: Node) -> Step:
    node.known()
    ends, value = node.constant(1, "paddings").reshape(-1, 2).tolist(), node.scalar(2, "values of padding")
    backwards = tuple(amount for pair in reversed(ends) for amount in pair)  # torch begins with the last axis
    x = node.inputs[0]
    function = partial(torch.nn.functional.pad, pad=backwards, value=value)
    return node.step(function, (0,), min(x.low, value), max(x.high, value))


def tile(node: Node) -> Step:
    node.known()
    return _unchanged(node, partial(torch.tile, dims=tuple(node.constant(1, "multiples").tolist())), 0)


def reverse(node: Node) -> Step:
    node.known("Axis")
    return _unchanged(node, partial(torch.flip, dims=(node.attributes["Axis"],)), 0)
