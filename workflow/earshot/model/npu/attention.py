"""Self-attention on the NPU, head by head: no data is moved between the convolutions, products and tables."""

from __future__ import annotations

import torch
from torch import nn

from earshot.model.conformer import SelfAttention
from earshot.model.npu.folding import Affine, pointwise, width
from earshot.model.npu.layers import Normalise


def largest(scores: torch.Tensor) -> torch.Tensor:
    """The maximum over the last axis, [..., N] to [..., 1], by maxima of two halves, which overlap by one where N is odd."""
    while (n := scores.shape[-1]) > 1:
        half = (n + 1) // 2
        scores = torch.maximum(scores[..., :half], scores[..., n - half :])
    return scores


def attend(scores: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """softmax(scores [1, T, T]) @ values [1, T, d], normalised after the product, where there are d columns instead of T."""
    weights = torch.exp(scores - largest(scores))
    return torch.matmul(weights, values) * torch.reciprocal(weights.sum(-1, keepdim=True))


def by_distance(positions_rd: torch.Tensor) -> torch.Tensor:
    """Projected positions [2T - 1, d] with a row of zeros at each end: the weights [2T + 1, d] of the scores that `shift_two` takes."""
    return nn.functional.pad(positions_rd, (0, 0, 1, 1))


def shift_two(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores by distance of two heads, [1, 2T + 1, 1, T] each, to scores by key, [1, T, T] each, by reading the same memory otherwise.

    Column c of row i belongs to key j = c - T + i; the columns 0 and 2T to none. The rows of both heads stand below each other. Read as
    rows that are one element shorter, row i begins i elements earlier in what was row i, and its keys stand in the columns T ... 2T - 1;
    the rows of the second head begin T elements earlier still, hence a row further down in the columns 0 ... T - 1.
    """
    t = first.shape[-1]
    rows = torch.cat([first, second], dim=3).permute(0, 2, 3, 1).reshape(1, 2 * t + 1, 2 * t)
    return rows[:, :t, t:], rows[:, t + 1 :, :t]


class NpuSelfAttention(nn.Module):
    """Normalise, attend, project.

    In the weights are gamma and beta, u and 1/sqrt(d). The scores by distance are a convolution of the queries: its weights are the
    projected positions, its bias is (v - u) times them. A bias of the keys would add the same to all scores of a query, which the softmax
    ignores; that of the values passes through the softmax, whose weights add up to one, and is in the bias of the output.
    """

    def __init__(self, plain: SelfAttention, positions_rd: torch.Tensor) -> None:
        super().__init__()
        attention, norm = plain.attention, plain.norm
        self.head_width = width(norm) // attention.heads
        u, v = (bias.detach().double().flatten() * attention.scale for bias in (attention.u, attention.v))
        query = Affine.of(attention.query).after_norm(norm).scaled(attention.scale).shifted(u)
        key, value = (Affine.of(linear).after_norm(norm) for linear in (attention.key, attention.value))
        positions_rd = positions_rd.double() @ Affine.of(attention.position).weight.T
        heads = [(h * self.head_width, (h + 1) * self.head_width) for h in range(attention.heads)]
        self.norm = Normalise(norm)
        self.query = pointwise(query)
        self.keys = nn.ModuleList(pointwise(key.without_bias().rows(*head)) for head in heads)
        self.values = nn.ModuleList(pointwise(value.without_bias().rows(*head)) for head in heads)
        self.positions = nn.ModuleList()
        for first, last in heads:
            weight = by_distance(positions_rd[:, first:last])
            self.positions.append(pointwise(Affine(weight, weight @ (v - u)[first:last])))
        self.out = pointwise(Affine.of(attention.out).after_constant(value.bias).centred())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        queries = self.query(x).split(self.head_width, dim=1)
        heads = []
        for query, key, value, position in zip(queries, self.keys, self.values, self._position_scores(queries), strict=True):
            # A permute of four axes swaps those of the keys: it is part of the convolution's write; one of three has all weights read again
            # for each row.
            content = torch.matmul(query.squeeze(2).transpose(1, 2), key(x).permute(0, 2, 1, 3).squeeze(1))
            heads.append(attend(content + position, value(x).squeeze(2).transpose(1, 2)).transpose(1, 2).unsqueeze(2))
        return self.out(torch.cat(heads, dim=1))

    def _position_scores(self, queries: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """[1, T, T] of each head. Where their number is odd, the last is shifted beside itself."""
        by_distance = [position(query) for position, query in zip(self.positions, queries, strict=True)]
        scores: list[torch.Tensor] = []
        for h in range(0, len(by_distance), 2):
            scores += shift_two(by_distance[h], by_distance[min(h + 1, len(by_distance) - 1)])
        return scores[: len(by_distance)]
