"""The parts of a block on the NPU. The stream is x [1, D, 1, T], channels before time, with no mean over its channels."""

from __future__ import annotations

import torch
from torch import nn

from earshot.model.conformer import Convolution, FeedForward
from earshot.model.npu.folding import Affine, depthwise_with_batch_norm, identity, mean, pointwise, width


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """A stream [1, D, 1, T] as rows [1, T, D]: no data moves, in memory it is time by channels."""
    return x.squeeze(2).transpose(1, 2)


class Normalise(nn.Module):
    """A layer norm without gamma and beta, of a stream whose mean is zero: x / sqrt(mean(x^2) + eps), [1, D, 1, T].

    The mean over the channels is a convolution whose bias is eps. The square is a table look-up, pow(2): of x * x the compiler makes two
    32-bit rescales. The table is looked up on the way out of a convolution, even one that changes nothing, in half of the time of a look-up
    of its own.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.same = identity(width(norm))
        self.variance = mean(width(norm), norm.eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(self.variance(self.same(x).pow(2)))


class NpuFeedForward(nn.Module):
    """Half a feed-forward: the half, gamma and beta are in the weights."""

    def __init__(self, plain: FeedForward) -> None:
        super().__init__()
        self.norm = Normalise(plain.norm)
        self.widen = pointwise(Affine.of(plain.widen).after_norm(plain.norm))
        self.narrow = pointwise(Affine.of(plain.narrow).scaled(0.5).centred())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(nn.functional.silu(self.widen(self.norm(x))))


class NpuConvolution(nn.Module):
    """The convolution module: value and gate of the GLU are two convolutions, the batch norm is in the depthwise one.

    `with_context`: it is given the frames before the first, as many as its kernel reaches, instead of taking zeros for them.
    """

    def __init__(self, plain: Convolution, with_context: bool = False) -> None:
        super().__init__()
        dim = width(plain.norm)
        both = Affine.of(plain.pointwise_in).after_norm(plain.norm)
        self.norm = Normalise(plain.norm)
        self.value, self.gate = pointwise(both.rows(0, dim)), pointwise(both.rows(dim, 2 * dim))
        self.depthwise = depthwise_with_batch_norm(plain.depthwise, plain.batch_norm)
        self.context = self.depthwise.padding[1] if with_context else 0
        self.pointwise_out = pointwise(Affine.of(plain.pointwise_out).centred())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normalised(self.norm(x))

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        """Of x [1, D, 1, S] behind the norm, with the context where the module is given one."""
        x = nn.functional.silu(self.depthwise(self.value(x) * torch.sigmoid(self.gate(x))))
        # What is filtered of the context is left here: a convolution reads where it is told to, zeros on one side alone would be a copy.
        return self.pointwise_out(x[..., self.context :] if self.context else x)
