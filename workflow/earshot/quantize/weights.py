"""Weights rounded so that what is computed with them keeps most: GPTQ, on the float network that is exported, before ranges are found.

Frantar et al., 2023, https://arxiv.org/abs/2210.17323: the weights of an output are rounded one after the other, and what one loses is made
up for by those that follow, for the inputs that calibration sees. What is written into the network lies on the grid that the quantizers
then find, whose step is the largest weight of an output (or of the layer) over the largest integer: they round it to itself.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable

import torch
from torch import nn
from tqdm import tqdm

from earshot.config import Precision, Quant

Layer = nn.Linear | nn.Conv1d | nn.Conv2d
DAMPING = 0.01  # of the mean of the diagonal of the products, added to it: as Frantar et al. do
SMALLEST = 1e-12  # step of the grid of an output without weights


def precision_of(quant: Quant, name: str) -> Precision:
    """That of a module: of the first part of the scheme that it, or a module around it, belongs to."""
    around = [name[:end] for end, letter in enumerate(name + ".") if letter == "."]
    found = (part for part in quant.parts if any(fnmatch.fnmatchcase(one, part.modules) for one in around))
    return next(found, quant)


def columns(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """What the outputs of a layer are weighted sums of: [groups, K, N] for its weights [groups, out / groups, K]."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2).T[None]
    if isinstance(layer, nn.Conv1d):
        x, kernel, stride, padding = x.unsqueeze(2), (1, *layer.kernel_size), (1, *layer.stride), (0, *layer.padding)
    else:
        kernel, stride, padding = layer.kernel_size, layer.stride, (*layer.padding,)
    patches = nn.functional.unfold(x, kernel, stride=stride, padding=padding)  # [B, C * kernel, L]
    return patches.transpose(0, 1).flatten(1).unflatten(0, (layer.groups, -1))


def by_group(layer: Layer) -> torch.Tensor:
    """Weights [groups, out / groups, K] of a layer, in double precision."""
    return layer.weight.detach().double().flatten(1).unflatten(0, (getattr(layer, "groups", 1), -1))


def layers(network: nn.Module) -> dict[str, Layer]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Layer)}


@torch.no_grad()
def products(network: nn.Module, inputs: Iterable[tuple[torch.Tensor, ...]]) -> dict[str, torch.Tensor]:
    """Of each layer by name, the products of each two inputs that meet in an output, [groups, K, K], summed over `inputs` of windows."""
    sums: dict[str, torch.Tensor] = {}

    def hook(name: str, layer: Layer) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def see(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            x = columns(layer, given[0])
            sums[name] = sums.get(name, 0) + (x @ x.transpose(1, 2)).double()

        return see

    handles = [layer.register_forward_pre_hook(hook(name, layer)) for name, layer in layers(network).items()]
    try:
        for of_window in inputs:
            network(*of_window)
    finally:
        for handle in handles:
            handle.remove()
    return sums


def compensated(weight_gok: torch.Tensor, product_gkk: torch.Tensor, precision: Precision) -> torch.Tensor:
    """Weights on the grid, column by column. The largest weight of an output, or of the layer, stays where the grid ends."""
    most, magnitude = 2 ** (precision.weight_bits - 1) - 1, weight_gok.abs()
    largest = magnitude.amax(-1, keepdim=True) if precision.per_channel else magnitude.amax().expand_as(magnitude[..., :1])
    step_go = (largest / most).clamp_min(SMALLEST)[..., 0]
    ends = magnitude == largest
    diagonal = product_gkk.diagonal(dim1=1, dim2=2)
    damping = (DAMPING * diagonal.mean(-1)).clamp_min(SMALLEST)
    damped = product_gkk + torch.diag_embed(damping[:, None].expand_as(diagonal))
    factor_gkk = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    left, found = weight_gok.clone(), torch.empty_like(weight_gok)
    for k in range(left.shape[-1]):
        integers = torch.where(ends[..., k], weight_gok[..., k].sign() * most, (left[..., k] / step_go).round().clamp(-most, most))
        found[..., k] = integers * step_go
        lost = (left[..., k] - found[..., k]) / factor_gkk[:, k, k, None]
        left[..., k:] -= lost[..., None] * factor_gkk[:, None, k, k:]
    return found


def round_weights(network: nn.Module, quant: Quant, inputs: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Round the weights of all layers of `network` that `quant` stores as integers, in place, for `inputs` of windows."""
    own = layers(network)
    for name, product in tqdm(products(network, inputs).items(), desc="round weights", unit="layer", disable=None):
        layer, precision = own[name], precision_of(quant, name)
        if precision.quantize and not precision.dynamic:  # a dynamic part leaves its convolutions in floats
            layer.weight.data = compensated(by_group(layer), product, precision).view_as(layer.weight).float()
