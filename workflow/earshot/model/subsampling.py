"""Convolution subsampling: 10 ms frames to 40 ms frames (Gulati et al., 2020, section 2)."""

from __future__ import annotations

import torch
from torch import nn

FACTOR = 4  # input frames per output frame


def output_frames(frames):
    """Output frames of `frames` input frames (an int or a tensor): two 3x3 convolutions of stride 2 without padding."""
    return ((frames - 1) // 2 - 1) // 2


class ConvSubsampling(nn.Module):
    """Features [B, T, n_mels] to [B, T', dim], T' = output_frames(T).

    Without padding, an output frame depends on input frames of its own utterance only, wherever the padding of a batch begins.
    """

    def __init__(self, n_mels: int, channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, kernel_size=3, stride=2)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, stride=2)
        self.project = nn.Linear(output_frames(n_mels) * channels, dim)

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        x_bctf = torch.relu(self.conv2(torch.relu(self.conv1(x_btf.unsqueeze(1)))))
        # Channels last: on the NPU, whose convolutions write channels last, this flattening moves no data.
        return self.project(x_bctf.permute(0, 2, 3, 1).flatten(2))
