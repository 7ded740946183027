"""A trained Conformer written down as public code writes it, and as Arm's example compiles it: the same function, in its own layouts.

Pointwise convolutions are Conv1d over [B, D, T], and the subsampling is flattened channels first (https://github.com/sooftware/conformer).
Our model as it was trained has neither; on the NPU both cost more than all else.
"""

from __future__ import annotations

import torch
from torch import nn

from earshot.model.conformer import Conformer, Convolution
from earshot.model.subsampling import ConvSubsampling


def conv1d(linear: nn.Linear) -> nn.Conv1d:
    """The layer over [B, D, T]."""
    made = nn.Conv1d(linear.in_features, linear.out_features, 1)
    made.weight, made.bias = nn.Parameter(linear.weight.unsqueeze(-1)), linear.bias
    return made


class PublicConvolution(nn.Module):
    def __init__(self, plain: Convolution) -> None:
        super().__init__()
        self.norm, self.depthwise, self.batch_norm = plain.norm, plain.depthwise, plain.batch_norm
        self.pointwise_in, self.pointwise_out = conv1d(plain.pointwise_in), conv1d(plain.pointwise_out)

    def forward(self, x_btd: torch.Tensor, *_: None) -> torch.Tensor:
        x_bdt = nn.functional.glu(self.pointwise_in(self.norm(x_btd).transpose(1, 2)), dim=1)
        x_bdt = nn.functional.silu(self.batch_norm(self.depthwise(x_bdt), None))
        return self.pointwise_out(x_bdt).transpose(1, 2)


class PublicSubsampling(nn.Module):
    def __init__(self, plain: ConvSubsampling) -> None:
        super().__init__()
        self.grid, self.convs = plain.grid, plain.convs
        channels = plain.convs[-1].out_channels
        bins = plain.project.in_features // channels
        self.project = nn.Linear(bins * channels, plain.project.out_features)
        columns = plain.project.weight.unflatten(1, (bins, channels)).transpose(1, 2).flatten(1)  # of channels first
        self.project.weight, self.project.bias = nn.Parameter(columns.contiguous()), plain.project.bias

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        x_bctf = x_btf.unsqueeze(1)
        for conv in self.convs:
            x_bctf = torch.relu(conv(x_bctf))
        return self.project(x_bctf.permute(0, 2, 1, 3).flatten(2))


def public_form(model: Conformer, window_frames: int) -> Conformer:
    """A copy of the model for a window, [1, window_frames, n_mels] to logits [1, T', V], written in that way."""
    copied = model.for_window(window_frames)
    if copied.subsampling.project is not None:
        copied.subsampling = PublicSubsampling(copied.subsampling)
    for block in copied.blocks:
        block.convolution = PublicConvolution(block.convolution)
    return copied.requires_grad_(False)
