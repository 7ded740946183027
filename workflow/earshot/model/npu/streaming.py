"""The NPU form of a window with a cache of left context (model/streaming.py): the same parts, given the frames before the window."""

from __future__ import annotations

import torch
from torch import nn

from earshot.model.conformer import ConformerBlock
from earshot.model.npu.attention import NpuSelfAttention
from earshot.model.npu.folding import gain, pointwise
from earshot.model.npu.layers import Normalise, NpuConvolution, NpuFeedForward, as_rows
from earshot.model.npu.output import logits, output_layer
from earshot.model.npu.subsampling import NpuSubsampling
from earshot.model.streaming import StreamingConformer


def as_stream(x_btd: torch.Tensor) -> torch.Tensor:
    """Rows [1, T, D] as a stream [1, D, 1, T]."""
    return x_btd.transpose(1, 2).unsqueeze(2)


class NpuStreamingBlock(nn.Module):
    """A block of the stream [1, D, 1, T], given its two parts of the cache, [1, left, D] and [1, reach, D].

    Frames are joined as rows, which is what the cache is made of: of streams, the compiler would transpose them all.
    """

    def __init__(self, plain: ConformerBlock, form: StreamingConformer, last: bool) -> None:
        super().__init__()
        self.hop = form.streaming.hop
        self.feed_forward1 = NpuFeedForward(plain.feed_forward1)
        self.self_attention = NpuSelfAttention(plain.self_attention, form.positions_rd, form.streaming.outputs, form.streaming.left)
        self.convolution = NpuConvolution(plain.convolution, with_context=True)
        self.feed_forward2 = NpuFeedForward(plain.feed_forward2)
        self.norm = Normalise(plain.norm)
        self.gain = pointwise(gain(plain.norm).centred()) if not last else nn.Identity()

    def forward(
        self, x: torch.Tensor, context_bcd: torch.Tensor, before_bkd: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Stream and both parts of the next window's cache."""
        x = x + self.feed_forward1(x)
        normalised = self.self_attention.norm(x)
        seen_bsd, next_context_bcd = self._join(context_bcd, normalised)
        x = x + self.self_attention.normalised(normalised, as_stream(seen_bsd))
        seen_bsd, next_before_bkd = self._join(before_bkd, self.convolution.norm(x))
        x = x + self.convolution.normalised(as_stream(seen_bsd))
        x = x + self.feed_forward2(x)
        return self.gain(self.norm(x)), next_context_bcd, next_before_bkd

    def _join(self, cached_bcd: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cached rows with those of the window behind them, and as many of them as are cached for the next window."""
        seen_bsd = torch.cat([cached_bcd, as_rows(x)], dim=1)
        return seen_bsd, seen_bsd[:, self.hop : self.hop + cached_bcd.shape[1]]


class NpuStreamingConformer(nn.Module):
    """Features [1, window_frames, n_mels] and a cache [1, rows, D] to logits [1, T', V] and the cache of the next window."""

    def __init__(self, form: StreamingConformer, window_frames: int, n_mels: int, chunks: int, cpu_output: bool = False) -> None:
        super().__init__()
        plain, last = form.model, form.model.blocks[-1]
        self.subsampling = NpuSubsampling(plain.subsampling, window_frames, n_mels, chunks)
        self.blocks = nn.ModuleList(NpuStreamingBlock(block, form, block is last) for block in plain.blocks)
        self.output = output_layer(plain, cpu_output)
        self.rows = [rows for reach in form.reaches for rows in (form.streaming.left, reach)]

    def forward(self, x_btf: torch.Tensor, cache_brd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, kept = self.subsampling(x_btf), []
        cache = cache_brd.split(self.rows, dim=1)
        for block, context_bcd, before_bkd in zip(self.blocks, cache[::2], cache[1::2], strict=True):
            x, *parts = block(x, context_bcd, before_bkd)
            kept.extend(parts)
        return logits(self.output, x), torch.cat(kept, dim=1)
