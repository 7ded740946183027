"""Self-attention on the NPU, head by head: no data is moved between the convolutions, products and tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    """softmax(scores [1, T, S]) @ values [1, S, d], normalised after the product, where there are d columns instead of S."""
    weights = torch.exp(scores - largest(scores))
    return torch.matmul(weights, values) * torch.reciprocal(weights.sum(-1, keepdim=True))


def by_distance(positions_rd: torch.Tensor) -> torch.Tensor:
    """Projected positions [2T - 1, d] of distances with a row of zeros at each end: weights [2T + 1, d] of the scores for `shift_two`."""
    return nn.functional.pad(positions_rd, (0, 0, 1, 1))


def by_frame(positions_td: torch.Tensor) -> torch.Tensor:
    """Projected positions [T, d] of frames behind a row of zeros: the weights [T + 1, d] of the scores that `shift_one` takes."""
    return nn.functional.pad(positions_td, (0, 0, 1, 0))


def shift_two(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores by distance of two heads, [1, 2T + 1, 1, T] each, to scores by key, [1, T, T] each, by reading the same memory otherwise.

    Column c of row i belongs to key j = c - T + i; the columns 0 and 2T to none. The rows of both heads stand below each other. Read as
    rows that are one element shorter, row i begins i elements earlier in what was row i, and its keys stand in the columns T ... 2T - 1;
    the rows of the second head begin T elements earlier still, hence a row further down in the columns 0 ... T - 1.
    """
    t = first.shape[-1]
    rows = torch.cat([first, second], dim=3).permute(0, 2, 3, 1).reshape(first.shape[0], 2 * t + 1, 2 * t)
    return rows[:, :t, t:], rows[:, t + 1 :, :t]


def by_distance_of_one(positions_rd: torch.Tensor) -> torch.Tensor:
    """Projected positions [S + T - 1, d] of distances with a row of zeros behind: weights [S + T, d] of the scores for `shift_to_keys`."""
    return nn.functional.pad(positions_rd, (0, 0, 0, 1))


def shift_to_keys(scores: torch.Tensor) -> torch.Tensor:
    """Scores by distance [1, S + T, 1, T] of queries that are the last T of S frames, to scores by key, [1, T, S].

    Key j of row i stands in column T - 1 - i + j: read as rows that are one element shorter, in column T - 1 + j of each. Less is read than
    there is, by T elements: a row, when the same memory is read as rows of T.
    """
    columns, t = scores.shape[1], scores.shape[3]
    rows = scores.permute(0, 2, 3, 1).reshape(1, columns, t)[:, : columns - 1].reshape(1, t, columns - 1)
    return rows[:, :, t - 1 :]


def shift_one(scores: torch.Tensor) -> torch.Tensor:
    """Scores by frame [1, T + 1, 1, T], column 0 of no frame, to what `relative_shift` makes of absolute positions, [1, T, T]."""
    t = scores.shape[-1]
    return scores.permute(0, 2, 3, 1).reshape(scores.shape[0], t + 1, t)[:, 1:]


WEIGHTS = {shift_two: by_distance, shift_to_keys: by_distance_of_one, shift_one: by_frame}  # of the positions, for each shift


class NpuSelfAttention(nn.Module):
    """Normalise, attend, project.

    In the weights are gamma and beta, u and 1/sqrt(d). The scores by position are a convolution of the queries: its weights are the
    projected positions, its bias is (v - u) times them. A bias of the keys would add the same to all scores of a query, which the softmax
    ignores; that of the values passes through the softmax, whose weights add up to one, and is in the bias of the output.
    """

    def __init__(self, plain: SelfAttention, positions_rd: torch.Tensor | None, frames: int, context: int = 0) -> None:
        super().__init__()
        attention, norm = plain.attention, plain.norm
        self.head_width = width(norm) // attention.heads
        heads = [(h * self.head_width, (h + 1) * self.head_width) for h in range(attention.heads)]
        query = Affine.of(attention.query).after_norm(norm).scaled(attention.scale)
        key, value = (Affine.of(linear).after_norm(norm) for linear in (attention.key, attention.value))
        self.norm = Normalise(norm)
        self.keys = nn.ModuleList(pointwise(key.without_bias().rows(*head)) for head in heads)
        self.values = nn.ModuleList(pointwise(value.without_bias().rows(*head)) for head in heads)
        self.out = pointwise(Affine.of(attention.out).after_constant(value.bias).centred())
        self.positions = nn.ModuleList()
        self.shift: Callable[..., Any] = shift_two
        if context:
            self.shift = shift_to_keys
        elif positions_rd is not None and len(positions_rd) == frames:
            self.shift = shift_one
        if positions_rd is not None and attention.position is not None:
            u, v = (bias.detach().double().flatten() * attention.scale for bias in (attention.u, attention.v))
            query = query.shifted(u)
            projected = positions_rd.double() @ Affine.of(attention.position).weight.T
            for first, last in heads:
                weight = WEIGHTS[self.shift](projected[:, first:last])
                self.positions.append(pointwise(Affine(weight, weight @ (v - u)[first:last])))
        self.query = pointwise(query)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.normalised(x, x)

    def normalised(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Of x [1, D, 1, T] behind its norm, the queries, and of all frames that they see, [1, D, 1, S], which end with them."""
        queries = self.query(x).split(self.head_width, dim=1)
        by_position = self._position_scores(queries)
        heads = []
        for h, (query, key, value) in enumerate(zip(queries, self.keys, self.values, strict=True)):
            # A permute of four axes swaps those of the keys: it is part of the convolution's write; one of three has all weights read again
            # for each row.
            scores = torch.matmul(query.squeeze(2).transpose(1, 2), key(seen).permute(0, 2, 1, 3).squeeze(1))
            if by_position:
                scores = scores + by_position[h]
            heads.append(attend(scores, value(seen).squeeze(2).transpose(1, 2)).transpose(1, 2).unsqueeze(2))
        return self.out(torch.cat(heads, dim=1))

    def _position_scores(self, queries: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """[1, T, S] of each head; nothing for attention without positions. Where the heads are odd, the last is shifted beside itself."""
        scores = [position(query) for position, query in zip(self.positions, queries, strict=False)]
        if self.shift is shift_to_keys:
            return [shift_to_keys(of_head) for of_head in scores]
        if self.shift is shift_one:
            return [shift_one(of_head) for of_head in scores]
        pairs = [shift_two(scores[h], scores[min(h + 1, len(scores) - 1)]) for h in range(0, len(scores), 2)]
        return [of_head for pair in pairs for of_head in pair][: len(scores)]
