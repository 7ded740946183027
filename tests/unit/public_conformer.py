"""An oracle: the architecture whose checkpoints are imported, written anew from the paper and from what the public code computes.

Only the names of the parameters are those of https://github.com/sooftware/conformer. Scores of positions are looked up one by one, not
shifted, and the arithmetic is that of the original: Conv1d for the pointwise convolutions, channels first into the projection.
"""

from __future__ import annotations

import math

import torch
from torch import nn


def named(**modules: nn.Module | nn.Parameter) -> nn.Module:
    """A module with these children and parameters, for the sake of their names."""
    holder = nn.Module()
    for name, child in modules.items():
        setattr(holder, name, child)
    return holder


class Wrapped(nn.Module):
    """A layer under one more name: `linear.weight`, `conv.weight`."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.name)(x)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Module:
    return Wrapped("linear", nn.Linear(inputs, outputs, bias=bias))


def conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1, bias: bool = True) -> nn.Module:
    return Wrapped("conv", nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias))


def table(positions: torch.Tensor, dim: int) -> torch.Tensor:
    """sin and cos of position / 10000^(2i / dim)."""
    result = torch.empty(len(positions), dim)
    for i in range(0, dim, 2):
        angle = positions.double() / 10_000 ** (i / dim)
        result[:, i], result[:, i + 1] = angle.sin(), angle.cos()
    return result


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        layers = [nn.LayerNorm(dim), linear(dim, hidden), nn.SiLU(), nn.Dropout(), linear(hidden, dim), nn.Dropout()]
        self.sequential = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sequential(x)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, absolute: bool) -> None:
        super().__init__()
        self.heads, self.absolute, self.dim = heads, absolute, dim
        self.layer_norm = nn.LayerNorm(dim)
        projections = {f"{name}_proj": linear(dim, dim) for name in ("query", "key", "value", "out")}
        biases = {name: nn.Parameter(torch.randn(heads, dim // heads)) for name in ("u_bias", "v_bias")}
        self.attention = named(**projections, pos_proj=linear(dim, dim, bias=False), **biases)
        self.positional_encoding = nn.Module()
        if absolute:
            self.positional_encoding.register_buffer("pe", table(torch.arange(200), dim)[None])

    def position_scores(self, q: torch.Tensor) -> torch.Tensor:
        """Of queries [H, T, d] with v added: [H, T, T]."""
        t = q.shape[1]
        positions = torch.arange(t) if self.absolute else torch.arange(1 - t, t)
        p = self.attention.pos_proj(table(positions, self.dim)).view(len(positions), self.heads, -1)
        scores = torch.zeros(self.heads, t, t)
        for i in range(t):
            for j in range(t):
                if not self.absolute:
                    row, column = i, i - j + t - 1
                else:  # rows of one zero and T scores, read on from element T in rows of T
                    row, column = divmod((i + 1) * t + j, t + 1)
                    column -= 1
                if column >= 0:
                    scores[:, i, j] = (q[:, row] * p[column]).sum(-1)
        return scores

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, x = self.attention, self.layer_norm(x)
        outputs = []
        for x_td in x:
            q, k, v = (
                project(x_td).view(len(x_td), self.heads, -1).transpose(0, 1) for project in (a.query_proj, a.key_proj, a.value_proj)
            )
            scores = (q + a.u_bias[:, None]) @ k.transpose(1, 2) + self.position_scores(q + a.v_bias[:, None])
            weights = (scores / math.sqrt(self.dim if self.absolute else self.dim // self.heads)).softmax(-1)
            outputs.append(a.out_proj((weights @ v).transpose(0, 1).flatten(1)))
        return torch.stack(outputs)


class Convolution(nn.Module):
    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        depthwise = conv(dim, dim, kernel, groups=dim, bias=False)
        layers = [
            nn.LayerNorm(dim),
            nn.Identity(),
            conv(dim, 2 * dim),
            nn.GLU(dim=1),
            depthwise,
            nn.BatchNorm1d(dim),
            nn.SiLU(),
            conv(dim, dim),
        ]
        self.sequential = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.sequential[0](x).transpose(1, 2)
        return self.sequential[2:](x).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, factor: int, kernel: int, absolute: bool, step: float) -> None:
        super().__init__()
        self.steps = (step, 1, 1, step)
        modules = [
            FeedForward(dim, factor * dim),
            Attention(dim, heads, absolute),
            Convolution(dim, kernel),
            FeedForward(dim, factor * dim),
        ]
        self.sequential = nn.Sequential(*(named(module=module) for module in modules), nn.LayerNorm(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, step in zip(self.sequential, self.steps, strict=False):
            x = x + step * layer.module(x)
        return self.sequential[-1](x)


class PublicConformer(nn.Module):
    """Features [B, T, n_mels] to log-probabilities; `absolute`: as the releases of 2022 before November."""

    def __init__(
        self,
        outputs: int,
        n_mels: int,
        dim: int,
        layers: int,
        heads: int,
        kernel: int,
        factor: int = 4,
        absolute: bool = False,
        step: float = 0.5,
    ) -> None:
        super().__init__()
        bins = ((n_mels - 1) // 2 - 1) // 2
        subsample = nn.Sequential(nn.Conv2d(1, dim, 3, 2), nn.ReLU(), nn.Conv2d(dim, dim, 3, 2), nn.ReLU())
        self.encoder = named(
            conv_subsample=named(sequential=subsample),
            input_projection=nn.Sequential(linear(dim * bins, dim), nn.Dropout()),
            layers=nn.ModuleList(Block(dim, heads, factor, kernel, absolute, step) for _ in range(layers)),
        )
        self.fc = linear(dim, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.encoder.conv_subsample.sequential(x[:, None])  # [B, C, T', F']
        x = self.encoder.input_projection(maps.transpose(1, 2).flatten(2))
        for layer in self.encoder.layers:
            x = layer(x)
        return self.fc(x).log_softmax(-1)


def as_trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms and statistics as after a training: fresh ones (0 and 1) would hide a wrong order of the layers."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()
