"""The values of attention without their mean: exact, and numbers that are spread less widely before attention divides by its weights' sum.

The NPU form multiplies values with weights that are not normalised yet, whose sum is 1 where attention looks at one frame and some tens
where it looks at all. In the latter rows stands that sum times the mean of the values, and takes the steps of the integers from all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from earshot.model.npu.attention import NpuSelfAttention

ENOUGH = 32  # windows: a mean is known well long before a range is


@torch.no_grad()
def centre_values(network: nn.Module, inputs: Sequence[tuple[torch.Tensor, ...]]) -> None:
    """Subtract from the values of each attention of the NPU form their mean over `inputs` of windows, in place, and add it to the output.

    What is added to all values comes out as it is, since normalised weights add up to one. Networks of another form stay as they are.
    """
    attentions = [module for module in network.modules() if isinstance(module, NpuSelfAttention)]
    values = [value for attention in attentions for value in attention.values]
    if not values:
        return
    sums: dict[nn.Module, torch.Tensor] = {value: torch.zeros(value.out_channels) for value in values}
    frames = dict.fromkeys(values, 0)

    def see(value: nn.Module, _given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        sums[value] += made.sum((0, 2, 3))
        frames[value] += made.shape[-1]

    handles = [value.register_forward_hook(see) for value in values]
    try:
        for of_window in inputs[:ENOUGH]:
            network(*of_window)
    finally:
        for handle in handles:
            handle.remove()
    for attention in attentions:
        means = [sums[value] / frames[value] for value in attention.values]
        for value, mean in zip(attention.values, means, strict=True):
            value.bias -= mean
        assert attention.out.bias is not None  # as all pointwise layers of the form have
        attention.out.bias += attention.out.weight.flatten(1) @ torch.cat(means)
