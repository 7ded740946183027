"""Convolution subsampling: frames of 10 ms to output frames of 20, 40, 80 ... ms (Gulati et al., 2020, section 2, has two convolutions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from earshot.errors import ConfigError

Frames = TypeVar("Frames", int, torch.Tensor)  # a number of them, or one for each utterance [B]


@dataclass(frozen=True)
class OutputGrid:
    """How output frames lie over input frames: `stages` convolutions, each three frames long, of stride 2, without padding."""

    stages: int

    @property
    def factor(self) -> int:
        """Input frames from one output frame to the next; output k looks at input frames from `factor` * k on."""
        return 2**self.stages

    def output_frames(self, frames: Frames) -> Frames:
        """Output frames of `frames` input frames; 0 or less where there are too few for one."""
        for _ in range(self.stages):
            frames = (frames - 1) // 2
        return frames


class ConvSubsampling(nn.Module):
    """Features [B, T, n_mels] to [B, T', dim], T' = grid.output_frames(T): a convolution for each entry of `channels`, then a projection.

    The convolutions are 3x3, of stride 2 in time and frequency, each with a ReLU. Without padding, an output frame depends on input frames
    of its own utterance only, wherever the padding of a batch begins. Without a convolution there is no projection either: the features
    are what the first block takes.

    Raises:
        ConfigError: the convolutions leave no mel bin; or there are none, and the features are not as wide as the blocks.
    """

    def __init__(self, n_mels: int, channels: list[int], dim: int) -> None:
        super().__init__()
        self.grid = OutputGrid(len(channels))
        bins = self.grid.output_frames(n_mels)  # frequency is subsampled as time is
        if not channels and n_mels != dim:
            remedy = "make them equal, or add a convolution"
            raise ConfigError(f"model.subsampling_channels=[]: features.n_mels={n_mels} must equal model.dim={dim}; {remedy}")
        if bins < 1:
            convs = f"{len(channels)} convolutions of stride 2"
            raise ConfigError(f"model.subsampling_channels={channels}: {convs} leave nothing of features.n_mels={n_mels}; give fewer")
        self.convs = nn.ModuleList(nn.Conv2d(i, o, kernel_size=3, stride=2) for i, o in zip([1, *channels], channels, strict=False))
        self.project = nn.Linear(bins * channels[-1], dim) if channels else None

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        if self.project is None:
            return x_btf
        # Training has the channels of a place together in memory, which takes two thirds of the time on a CPU: strides that say so of the
        # one channel of the features are enough.
        x_bctf = x_btf.unsqueeze(-1).permute(0, 3, 1, 2) if self.training else x_btf.unsqueeze(1)
        for conv in self.convs:
            x_bctf = nn.functional.relu(conv(x_bctf), inplace=self.training)
        # Channels last: on the NPU, whose convolutions write channels last, this flattening moves no data.
        return self.project(x_bctf.permute(0, 2, 3, 1).flatten(2))
