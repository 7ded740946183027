"""The subsampling on the NPU: piece by piece of the window, so that its large first results never lie in memory whole."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from earshot.model.npu.folding import Affine, pointwise, with_numbers
from earshot.model.subsampling import ConvSubsampling, OutputGrid

MOST_CHUNKS = 16  # each adds its operators to the program
KERNEL = 3  # of every convolution, in time and in frequency


def read_to_the_end(conv: nn.Conv2d, bins: int) -> nn.Conv2d:
    """A 3x3 convolution of stride 2 over `bins` bins, with a column of zeros in its kernel where it would leave the last bin unread.

    The same result; without it the compiler copies its input to cut that bin off.
    """
    unread = (bins - KERNEL) % 2
    wide = nn.Conv2d(conv.in_channels, conv.out_channels, (KERNEL, KERNEL + unread), stride=2)
    assert conv.bias is not None
    return with_numbers(wide, nn.functional.pad(conv.weight.detach(), (0, unread)), conv.bias.detach().clone())


def time_chunks(outputs: int, chunks: int) -> list[tuple[int, int]]:
    """`outputs` output frames in pieces of about equal length: (first, end) of each."""
    return list(pairwise(round(i * outputs / chunks) for i in range(chunks + 1)))


def input_span(first: int, end: int, grid: OutputGrid) -> tuple[int, int]:
    """The input frames that the output frames first ... end - 1 look at."""
    length = end - first
    for _ in range(grid.stages):
        length = 2 * length + 1
    return first * grid.factor, first * grid.factor + length


def sram_bytes(plain: ConvSubsampling, n_mels: int, outputs: int, chunks: int) -> int:
    """About the memory of the largest step of a chunk: its input and output, the weights of this step and the next, the features."""
    longest = max(end - first for first, end in time_chunks(outputs, chunks))
    grid = plain.grid
    features, bins = input_span(0, outputs, grid)[1] * n_mels, n_mels
    lengths = [longest]
    for _ in range(grid.stages):
        lengths.insert(0, 2 * lengths[0] + 1)
    sizes = [lengths[0] * bins]
    for conv, length in zip(plain.convs, lengths[1:], strict=True):
        bins = (bins - 1) // 2
        sizes.append(length * bins * conv.out_channels)
    assert plain.project is not None  # there are convolutions
    weights = [*(conv.weight.numel() for conv in plain.convs), plain.project.weight.numel()]
    return features + max(sizes[i] + sizes[i + 1] + weights[i] + weights[i + 1] for i in range(len(plain.convs)))


class NpuSubsampling(nn.Module):
    """Features [1, T, n_mels] to the stream [1, D, 1, T'], in `chunks` pieces of time one after the other."""

    def __init__(self, plain: ConvSubsampling, window_frames: int, n_mels: int, chunks: int) -> None:
        super().__init__()
        grid = plain.grid
        self.spans = [input_span(first, end, grid) for first, end in time_chunks(grid.output_frames(window_frames), chunks)]
        self.convs = nn.ModuleList()
        bins = n_mels
        for conv in plain.convs:
            self.convs.append(read_to_the_end(conv, bins))
            bins = (bins - 1) // 2
        # Without convolutions the features are the stream, but for their mean.
        project = (
            Affine.of(plain.project)
            if plain.project is not None
            else Affine(torch.eye(n_mels, dtype=torch.double), torch.zeros(n_mels, dtype=torch.double))
        )
        self.project = pointwise(project.centred())

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._chunk(x_btf[:, first:end]) for first, end in self.spans], dim=3)

    def _chunk(self, x_btf: torch.Tensor) -> torch.Tensor:
        x = x_btf.unsqueeze(1)
        for conv in self.convs:
            x = torch.relu(conv(x))
        # Channels last, as the convolutions write them: flattened without moving data.
        return self.project(x.permute(0, 2, 3, 1).flatten(2).transpose(1, 2).unsqueeze(2))
