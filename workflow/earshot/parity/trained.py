"""The numbers that a model computes with: what the stored ones of a program were before they were rounded."""

from __future__ import annotations

import torch
from torch import nn

from earshot.model import Conformer
from earshot.model.attention import Attention
from earshot.model.conformer import Convolution
from earshot.model.npu import to_npu
from earshot.model.npu.folding import depthwise_with_batch_norm
from earshot.model.streaming import Streaming
from earshot.windows import Layout

MACARON = 0.5  # of a feed-forward, equation 1


def of_npu_form(model: Conformer, window_frames: int, n_mels: int, layout: Layout | None) -> list[torch.Tensor]:
    """The weights of the NPU form of a model; `layout` is that of a program with a cache."""
    streaming = Streaming(layout.outputs, layout.hop, layout.left) if layout else None
    # In how many pieces it is cut changes no weight: one needs no budget of memory.
    return list(to_npu(model, window_frames, n_mels, sram_kib=1, chunks=1, streaming=streaming).state_dict().values())


def numbers(model: Conformer, outputs: int) -> list[torch.Tensor]:
    """The weights of a model, those that a quantizer makes of two layers, the constants of its operators, and the positions of a window of
    `outputs` output frames, also as its attentions project and scale them, [1, heads, d, rows].
    """
    found = [one.detach() for one in model.state_dict().values() if one.is_floating_point()]
    positions_rd, scalars = model.position_table(outputs), {MACARON}
    if positions_rd is not None:
        found.append(positions_rd)
    for module in model.modules():
        if isinstance(module, Convolution):  # with its batch norm, as a convolution over [B, D, T]
            weight, bias = depthwise_with_batch_norm(module.depthwise, module.batch_norm).parameters()
            found += [weight.detach().squeeze(2), bias.detach()]
        elif isinstance(module, nn.LayerNorm):
            scalars |= {1 / module.normalized_shape[0], module.eps}
        elif isinstance(module, Attention):
            scalars.add(module.scale)
            if positions_rd is not None and module.position is not None:
                projected = (module.position(positions_rd) * module.scale).detach()
                found.append(projected.unflatten(1, (module.heads, -1)).permute(1, 2, 0)[None])
    return [*found, *(torch.tensor([float(scalar)]) for scalar in sorted(scalars))]
