"""Multi-head self-attention, with the positions of Transformer-XL (Dai et al., 2019, section 3.3) or without any."""

from __future__ import annotations

import math

import torch
from torch import nn

from earshot.model.dropout import Dropout


def sinusoids(positions_r: torch.Tensor, dim: int) -> torch.Tensor:
    """Sines and cosines [R, dim] of positions [R], in turn, from fast to slow (Vaswani et al., 2017, section 3.5)."""
    frequency = torch.exp(torch.arange(0, dim, 2.0) * (-math.log(10_000.0) / dim))
    angle = positions_r[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim]


def relative_positions(frames: int, dim: int, context: int = 0) -> torch.Tensor:
    """Sinusoids [context + 2 * frames - 1, dim] of the distances (query minus key) of `frames` frames from themselves and `context` before.

    They are context + frames - 1, ..., 0, ..., 1 - frames.
    """
    return sinusoids(torch.arange(context + frames - 1, -frames, -1.0), dim)


def absolute_positions(frames: int, dim: int) -> torch.Tensor:
    """Sinusoids [frames, dim] of the frames 0, 1, ..., frames - 1."""
    return sinusoids(torch.arange(0.0, frames), dim)


def relative_shift(scores_bhtr: torch.Tensor, keys: int) -> torch.Tensor:
    """Scores by distance [B, H, T, keys + T - 1], or by absolute position [B, H, T, T], to scores by key [B, H, T, keys].

    The queries are the last T of the keys' frames. Row i holds the distances keys - 1 ... 1 - T; key j lies at distance keys - T + i - j,
    thus at column T - 1 - i + j. One column of padding makes each row of the flat memory start one element later than the row above, which
    is this shift:

        . a b c d e          row 0 keeps c d e
        . f g h i j    ->    row 1 keeps g h i
        . k l m n o          row 2 keeps k l m

    Scores by absolute position are shifted the same way, as public implementations did that took the table of absolute positions for one
    of distances: key j <= i of row i gets column T - 1 - (i - j), key i + 1 gets 0, and a later one column j - i - 2 of row i + 1.
    """
    b, h, t, r = scores_bhtr.shape
    padded = nn.functional.pad(scores_bhtr, (1, 0))
    return padded.flatten(2)[:, :, t:].reshape(b, h, t, r)[..., :keys]


def relative_view(scores_bhtr: torch.Tensor, keys: int) -> torch.Tensor:
    """What `relative_shift` makes of scores by distance, as a view: key j of row i is element T - 1 + i * (R - 1) + j of the memory.

    The scores are contiguous and begin their memory, as a product leaves them. Nothing is copied, and the gradient is written once. For
    training alone: neither an NPU nor the host has an operator for other strides.
    """
    b, h, t, r = scores_bhtr.shape
    return scores_bhtr.as_strided((b, h, t, keys), (h * t * r, t * r, r - 1, 1), t - 1)


class Attention(nn.Module):
    """Self-attention over [B, T, D]; with `positions`, `u` and `v` are the learnt biases of content and position."""

    def __init__(self, dim: int, heads: int, dropout: float, positions: bool = True) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(dim // heads)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.position = nn.Linear(dim, dim, bias=False) if positions else None
        if positions:
            self.u = nn.Parameter(torch.empty(heads, 1, dim // heads))
            self.v = nn.Parameter(torch.empty(heads, 1, dim // heads))
            nn.init.xavier_uniform_(self.u)
            nn.init.xavier_uniform_(self.v)
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(dim, dim)

    def _split(self, x_btd: torch.Tensor) -> torch.Tensor:
        return x_btd.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D / H]

    def forward(
        self, x_btd: torch.Tensor, positions_rd: torch.Tensor | None, valid_bt: torch.Tensor | None, context_bcd: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`positions_rd`: of `relative_positions(T, D, C)` or `absolute_positions(T, D)`; `valid_bt`: False where a frame is padding;
        `context_bcd`: frames before the first, which are keys and no queries.
        """
        keys_bsd = x_btd if context_bcd is None else torch.cat([context_bcd, x_btd], dim=1)
        q, k, v = self._split(self.query(x_btd)), self._split(self.key(keys_bsd) * self.scale), self._split(self.value(keys_bsd))
        if self.position is None:
            scores_bhts = torch.matmul(q, k.transpose(-1, -2))
        else:
            p = self._split(self.position(positions_rd).unsqueeze(0) * self.scale)
            shift = relative_view if self.training else relative_shift
            scores_bhts = torch.matmul(q + self.u, k.transpose(-1, -2))
            scores_bhts = scores_bhts + shift(torch.matmul(q + self.v, p.transpose(-1, -2)), keys_bsd.shape[1])
        if valid_bt is not None:
            # In place, and without autograd, which would copy the scores: a softmax passes no gradient to what its result is zero for.
            scores_bhts.detach().masked_fill_(~valid_bt[:, None, None, :], -torch.inf)
        weights = self.dropout(torch.softmax(scores_bhts, dim=-1))
        return self.out(torch.matmul(weights, v).transpose(1, 2).flatten(2))
