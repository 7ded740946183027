"""A trained Conformer on one window after the other, each with a cache of what its layers computed of the speech before it.

A window of `outputs` output frames is followed by the next after `hop` of them; the rest is a look-ahead, which the next window computes
again, with more to its right. Nothing of the speech before a window is computed again: attention looks at the `left` frames before it, and
the convolution at those that its kernel reaches, as the cache holds them. There each of them is as its own window saw it, without what came
later. Training knows no windows, and lets every frame see all others: the result is an approximation of that of a whole utterance.

The cache [1, rows, D] holds for each block, one below the other, what its attention and its convolution module take behind their layer norm
and before its gamma and beta: `left` frames of the one, half a kernel of the other. All of it has variance one, so that a single scale of
integers fits it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from earshot.errors import ConfigError
from earshot.model.attention import relative_positions
from earshot.model.conformer import Conformer, ConformerBlock


@dataclass(frozen=True)
class Streaming:
    """How windows follow each other, in output frames."""

    outputs: int  # of a window
    hop: int  # from a window to the next
    left: int  # of the cached context that attention looks at


def normalised(norm: nn.LayerNorm, x_btd: torch.Tensor) -> torch.Tensor:
    """A layer norm before its gamma and beta."""
    return nn.functional.layer_norm(x_btd, norm.normalized_shape, eps=norm.eps)


def with_gain(norm: nn.LayerNorm, x_btd: torch.Tensor) -> torch.Tensor:
    """Gamma and beta of a layer norm."""
    return x_btd * norm.weight + norm.bias


class StreamingConformer(nn.Module):
    """Features [1, window_frames, n_mels] and a cache [1, rows, D] to logits [1, outputs, V] and the cache of the next window."""

    def __init__(self, model: Conformer, streaming: Streaming) -> None:
        """Raises:
        ConfigError: the model has absolute positions, which say nothing of frames before a window.
        """
        super().__init__()
        if model.positions == "absolute":
            raise ConfigError("window.left_context_s: the model has absolute positions, which end at a window; set it to 0")
        self.model, self.streaming = model.eval(), streaming
        positions_rd = None if model.positions == "none" else relative_positions(streaming.outputs, model.dim, streaming.left)
        self.positions_rd: torch.Tensor | None
        self.register_buffer("positions_rd", positions_rd, persistent=False)
        self.reaches = [block.convolution.depthwise.kernel_size[0] // 2 for block in model.blocks]  # of the convolutions, to the left

    @property
    def cache_shape(self) -> tuple[int, int, int]:
        return cache_shape(self.model, self.streaming)

    def forward(self, x_btf: torch.Tensor, cache_brd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x_btd, kept = self.model.subsampling(x_btf), list[torch.Tensor]()
        for block, reach, context_bcd, before_bkd in zip(self.model.blocks, self.reaches, *self._parts(cache_brd), strict=True):
            x_btd = x_btd + 0.5 * block.feed_forward1(x_btd)
            x_btd = x_btd + self._attention(block, x_btd, context_bcd, kept)
            x_btd = x_btd + self._convolution(block, reach, x_btd, before_bkd, kept)
            x_btd = block.norm(x_btd + 0.5 * block.feed_forward2(x_btd))
        return self.model.output(x_btd), torch.cat(kept, dim=1)

    def _parts(self, cache_brd: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """The cache of each block: attention's, the convolution module's."""
        rows = cache_brd.split([rows for reach in self.reaches for rows in (self.streaming.left, reach)], dim=1)
        return rows[::2], rows[1::2]

    def _keep(self, seen_bsd: torch.Tensor, rows: int) -> torch.Tensor:
        """The `rows` frames before the next window, of frames that begin `rows` before this one."""
        return seen_bsd[:, self.streaming.hop : self.streaming.hop + rows]

    def _attention(self, block: ConformerBlock, x_btd: torch.Tensor, context_bcd: torch.Tensor, kept: list[torch.Tensor]) -> torch.Tensor:
        norm, attention = block.self_attention.norm, block.self_attention.attention
        x_btd = normalised(norm, x_btd)
        kept.append(self._keep(torch.cat([context_bcd, x_btd], dim=1), self.streaming.left))
        return attention(with_gain(norm, x_btd), self.positions_rd, None, with_gain(norm, context_bcd))

    def _convolution(
        self, block: ConformerBlock, reach: int, x_btd: torch.Tensor, before_bkd: torch.Tensor, kept: list[torch.Tensor]
    ) -> torch.Tensor:
        module = block.convolution
        seen_bsd = torch.cat([before_bkd, normalised(module.norm, x_btd)], dim=1)
        kept.append(self._keep(seen_bsd, reach))
        gated_bsd = nn.functional.glu(module.pointwise_in(with_gain(module.norm, seen_bsd)), dim=-1)
        filtered_bdt = module.depthwise(gated_bsd.transpose(1, 2))[..., reach:]  # what stands before belongs to the windows before
        return module.pointwise_out(nn.functional.silu(module.batch_norm(filtered_bdt, None)).transpose(1, 2))


def cache_shape(model: Conformer, streaming: Streaming) -> tuple[int, int, int]:
    """[1, rows, D] of the cache."""
    reaches = sum(block.convolution.depthwise.kernel_size[0] // 2 for block in model.blocks)
    return 1, len(model.blocks) * streaming.left + reaches, model.dim


@torch.no_grad()
def silence_cache(form: StreamingConformer, silence_f: torch.Tensor, window_frames: int) -> torch.Tensor:
    """The cache [1, rows, D] of the first window of an utterance: what silence leaves, whose features [n_mels] are those of each frame.

    It is that of windows of silence one after the other, the first with zeros, until each block's context was computed from such a context.
    """
    x_btf, cache_brd = silence_f.expand(1, window_frames, -1), torch.zeros(form.cache_shape)
    fill = -(-form.streaming.left // form.streaming.hop)
    for _ in range(fill * len(form.model.blocks) + 1):
        _, cache_brd = form(x_btf, cache_brd)
    return cache_brd
