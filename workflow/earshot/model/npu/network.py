"""A trained Conformer rewritten for the NPU: the same function of a window of fixed length, in operators and layouts that cost least."""

from __future__ import annotations

import torch
from torch import nn

from earshot.errors import ArtifactError, ConfigError
from earshot.model.attention import Attention
from earshot.model.conformer import Conformer, ConformerBlock, Convolution, Depthwise, FeedForward, SelfAttention, SpeechBatchNorm
from earshot.model.dropout import Dropout
from earshot.model.npu import subsampling
from earshot.model.npu.attention import NpuSelfAttention
from earshot.model.npu.folding import gain, pointwise
from earshot.model.npu.layers import Normalise, NpuConvolution, NpuFeedForward
from earshot.model.npu.output import logits, output_layer
from earshot.model.npu.streaming import NpuStreamingConformer
from earshot.model.streaming import Streaming, StreamingConformer
from earshot.model.subsampling import ConvSubsampling

# What the rewrites know, by exact type: a subclass may compute something else.
KNOWN = (
    *(Conformer, ConvSubsampling, ConformerBlock, FeedForward, SelfAttention, Attention, Convolution, Depthwise, SpeechBatchNorm),
    *(nn.LayerNorm, nn.Linear, nn.Conv2d, Dropout, nn.ModuleList),
)


class NpuBlock(nn.Module):
    """A block of the stream [1, D, 1, T]. The last one ends with its normalisation: its gamma and beta are in the output layer."""

    def __init__(self, plain: ConformerBlock, positions_rd: torch.Tensor | None, frames: int, last: bool) -> None:
        super().__init__()
        self.feed_forward1 = NpuFeedForward(plain.feed_forward1)
        self.self_attention = NpuSelfAttention(plain.self_attention, positions_rd, frames)
        self.convolution = NpuConvolution(plain.convolution)
        self.feed_forward2 = NpuFeedForward(plain.feed_forward2)
        self.norm = Normalise(plain.norm)
        self.gain = pointwise(gain(plain.norm).centred()) if not last else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.feed_forward1(x)
        x = x + self.self_attention(x)
        x = x + self.convolution(x)
        x = x + self.feed_forward2(x)
        return self.gain(self.norm(x))


class NpuConformer(nn.Module):
    """Features [1, window_frames, n_mels] to logits [1, T', V]."""

    def __init__(self, plain: Conformer, window_frames: int, n_mels: int, chunks: int, cpu_output: bool = False) -> None:
        super().__init__()
        self.subsampling = subsampling.NpuSubsampling(plain.subsampling, window_frames, n_mels, chunks)
        frames = plain.output_lengths(window_frames)
        positions_rd = plain.position_table(frames)
        last = plain.blocks[-1]
        self.blocks = nn.ModuleList(NpuBlock(block, positions_rd, frames, block is last) for block in plain.blocks)
        self.output = output_layer(plain, cpu_output)

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        x = self.subsampling(x_btf)
        for block in self.blocks:
            x = block(x)
        return logits(self.output, x)


def to_npu(
    model: Conformer,
    window_frames: int,
    n_mels: int,
    sram_kib: int,
    chunks: int | None = None,
    streaming: Streaming | None = None,
    cpu_output: bool = False,
) -> nn.Module:
    """The NPU form of a trained model for a window: features [1, window_frames, n_mels] to logits [1, T', V], for inference.

    With `streaming`, a cache is taken and given besides, as by a StreamingConformer.

    Args:
        sram_kib: the subsampling is cut into as many pieces of time as its memory asks for to stay within this budget.
        chunks: that number of pieces, where it is to be another.
        cpu_output: the output layer is left to the CPU, which takes rows.

    Raises:
        ArtifactError: the model has a part that no rewrite knows; it is named.
        ConfigError: the window gives no output frame, or no number of pieces stays within the budget.
    """
    refuse_unknown(model)
    outputs = model.output_lengths(window_frames)
    if outputs < 1:
        raise ConfigError(f"a window of {window_frames} frames is too short for one output frame; lengthen window.seconds")
    if chunks is None:
        chunks = chunks_within(model, outputs, n_mels, sram_kib)
    chunks = min(chunks, outputs)
    if streaming is None:
        network: nn.Module = NpuConformer(model, window_frames, n_mels, chunks, cpu_output)
    else:
        network = NpuStreamingConformer(StreamingConformer(model, streaming), window_frames, n_mels, chunks, cpu_output)
    return network.eval().requires_grad_(False)


def refuse_unknown(model: Conformer) -> None:
    """Raise the ArtifactError of `to_npu`."""
    for name, module in model.named_modules():
        kind = type(module)
        if kind not in KNOWN or (kind is nn.LayerNorm and (module.weight is None or module.bias is None)):
            raise ArtifactError(
                f"{name or 'model'}: {kind.__name__} has no NPU form, or not with these settings; "
                "set model.npu_form=false to quantize the model as it is"
            )


def chunks_within(model: Conformer, outputs: int, n_mels: int, sram_kib: int) -> int:
    """The fewest pieces of time whose memory is within the budget.

    Raises:
        ConfigError: there is none; the least that there is is named.
    """
    if not len(model.subsampling.convs):
        return 1
    estimates = {}
    for chunks in range(1, min(subsampling.MOST_CHUNKS, outputs) + 1):
        estimates[chunks] = -(-subsampling.sram_bytes(model.subsampling, n_mels, outputs, chunks) // 1024)
        if estimates[chunks] <= sram_kib:
            return chunks
    least = min(estimates, key=lambda chunks: estimates[chunks])
    raise ConfigError(
        f"model.npu_sram_kib={sram_kib}: the subsampling takes about {estimates[least]} KiB even in {least} pieces of time; "
        "allow that, shorten window.seconds, or choose fewer model.subsampling_channels"
    )
