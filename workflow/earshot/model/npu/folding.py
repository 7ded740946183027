"""Algebra on weights that changes where a number is computed and never which: each function is exact in real arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Affine:
    """A map over channels, y = weight x + bias, in double precision: weight [out, in], bias [out]."""

    weight: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def of(cls, linear: nn.Linear) -> Affine:
        """The map of a linear layer; a missing bias is zero."""
        bias = linear.bias if linear.bias is not None else linear.weight.new_zeros(linear.out_features)
        return cls(linear.weight.detach().double(), bias.detach().double())

    def after_norm(self, norm: nn.LayerNorm) -> Affine:
        """The map of the norm's input before its gamma and beta: W (gamma n + beta) + b."""
        return Affine(self.weight * norm.weight.detach().double(), self.after_constant(norm.bias.detach().double()).bias)

    def after_constant(self, constant: torch.Tensor) -> Affine:
        """The map of an input [in] to which `constant` is added: W (x + c) + b."""
        return self.shifted(self.weight @ constant)

    def centred(self) -> Affine:
        """The map whose outputs have no mean over the channels: all that reads them is a layer norm, which subtracts the mean anyway."""
        return Affine(self.weight - self.weight.mean(0), self.bias - self.bias.mean())

    def scaled(self, factor: float) -> Affine:
        """The map with its outputs times `factor`."""
        return Affine(self.weight * factor, self.bias * factor)

    def shifted(self, offset: torch.Tensor) -> Affine:
        """The map with `offset` [out] added to its outputs."""
        return Affine(self.weight, self.bias + offset)

    def without_bias(self) -> Affine:
        return Affine(self.weight, torch.zeros_like(self.bias))

    def rows(self, first: int, last: int) -> Affine:
        """The outputs first ... last - 1."""
        return Affine(self.weight[first:last], self.bias[first:last])


def width(norm: nn.LayerNorm) -> int:
    """The channels of a layer norm."""
    return norm.normalized_shape[0]


def gain(norm: nn.LayerNorm) -> Affine:
    """A norm's gamma and beta as a map."""
    return Affine(torch.diag(norm.weight.detach().double()), norm.bias.detach().double())


def with_numbers(conv: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """A convolution that has a bias, with these numbers."""
    assert conv.bias is not None
    conv.weight.data, conv.bias.data = weight, bias
    return conv


def pointwise(affine: Affine) -> nn.Conv2d:
    """A map over the channels of [1, in, 1, T], as a 1x1 convolution."""
    out_channels, in_channels = affine.weight.shape
    conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)
    return with_numbers(conv, affine.weight[:, :, None, None].float(), affine.bias.float())


def linear(affine: Affine) -> nn.Linear:
    """A map over the last axis of [1, T, in]."""
    layer = nn.Linear(*affine.weight.shape[::-1])
    layer.weight.data, layer.bias.data = affine.weight.float(), affine.bias.float()
    return layer


def mean(channels: int, offset: float) -> nn.Conv2d:
    """The mean over the channels of [1, channels, 1, T], plus `offset`: [1, 1, 1, T]."""
    return pointwise(Affine(torch.full((1, channels), 1 / channels, dtype=torch.double), torch.tensor([offset], dtype=torch.double)))


def identity(channels: int) -> nn.Conv2d:
    """A convolution that gives what it takes, [1, channels, 1, T]."""
    conv = nn.Conv2d(channels, channels, kernel_size=1, groups=channels, bias=False)
    conv.weight.data.fill_(1.0)
    return conv


def depthwise_with_batch_norm(conv: nn.Conv1d, norm: nn.BatchNorm1d) -> nn.Conv2d:
    """A depthwise convolution over time and the batch norm behind it as one convolution over [1, C, 1, T]."""
    assert norm.running_mean is not None and norm.running_var is not None  # as it is told to keep track of them
    scale = norm.weight.detach().double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    bias = conv.bias.detach().double() if conv.bias is not None else torch.zeros_like(scale)
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, (1, conv.kernel_size[0]), padding=(0, *conv.padding), groups=conv.groups)
    weight = (conv.weight.detach().double() * scale[:, None, None]).unsqueeze(2).float()
    return with_numbers(folded, weight, ((bias - norm.running_mean.double()) * scale + norm.bias.detach().double()).float())
