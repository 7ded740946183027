"""Weights rounded so that what is computed with them keeps most: GPTQ, on the float network that is exported, before ranges are found.

Frantar et al., 2023, https://arxiv.org/abs/2210.17323: the weights of an output are rounded one after the other, and what one loses is made
up for by those that follow, for the inputs that calibration sees. What is written into the network lies on the grid that the quantizers
then find, whose step is the largest weight of an output (or of the layer) over the largest integer: they round it to itself. Where that
loses less, the largest weights of an output are cut off.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from tqdm import tqdm

from earshot.config import Calib, Precision, Quant
from earshot.quantize.centring import centre_values

Layer = nn.Linear | nn.Conv1d | nn.Conv2d
DAMPING = 0.01  # of the mean of the diagonal of the products, added to it: as Frantar et al. do
SMALLEST = 1e-12  # step of the grid of an output without weights
PARTS = torch.linspace(0.4, 1, 25, dtype=torch.double)  # of the largest weight, where a grid may end


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
    """Weights on the grid, input by input: those first that are largest in what calibration sees, since the others make up for them.

    The largest weights of an output, or of the layer, stand where the grid ends, which is how the quantizers find its step.
    """
    most = 2 ** (precision.weight_bits - 1) - 1
    diagonal_gk = product_gkk.diagonal(dim1=1, dim2=2)
    damping = (DAMPING * diagonal_gk.mean(-1)).clamp_min(SMALLEST)
    damped = product_gkk + torch.diag_embed(damping[:, None].expand_as(diagonal_gk))
    end_go1 = grid_end(weight_gok, damped, most, precision.per_channel)
    order_gk = diagonal_gk.argsort(-1, descending=True)
    weight_gok = weight_gok.gather(2, order_gk[:, None].expand_as(weight_gok))
    damped = torch.stack([one[order][:, order] for one, order in zip(damped, order_gk, strict=True)])
    factor_gkk = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    step_go = (end_go1[..., 0] / most).clamp_min(SMALLEST)
    ends = weight_gok.abs() >= end_go1
    left, found = weight_gok.clone(), torch.empty_like(weight_gok)
    for k in range(left.shape[-1]):
        integers = torch.where(ends[..., k], weight_gok[..., k].sign() * most, (left[..., k] / step_go).round().clamp(-most, most))
        found[..., k] = integers * step_go
        lost = (left[..., k] - found[..., k]) / factor_gkk[:, k, k, None]
        left[..., k:] -= lost[..., None] * factor_gkk[:, None, k, k:]
    return torch.empty_like(found).scatter_(2, order_gk[:, None].expand_as(found), found)


def grid_end(weight_gok: torch.Tensor, product_gkk: torch.Tensor, most: int, per_channel: bool) -> torch.Tensor:
    """The value [groups, out / groups, 1] that stands for the integer `most`: the part of the largest weight of an output with which its
    nearest values change the output least; of the layer, its largest weight.
    """
    magnitude = weight_gok.abs()
    if not per_channel:
        return magnitude.amax().expand_as(magnitude[..., :1])
    ends = PARTS[:, None, None, None] * magnitude.amax(-1, keepdim=True)
    errors = []
    for end in ends:
        step = (end / most).clamp_min(SMALLEST)
        lost = (weight_gok / step).round().clamp(-most, most) * step - weight_gok
        errors.append(((lost @ product_gkk) * lost).sum(-1, keepdim=True))
    return ends.gather(0, torch.stack(errors).argmin(0, keepdim=True))[0]


def settle(network: nn.Module, quant: Quant, calib: Calib, inputs: Sequence[tuple[torch.Tensor, ...]]) -> None:
    """Give a float network the weights that it is to be quantized with, in place, before ranges are found; `inputs` of windows are those of
    calibration.
    """
    centre_values(network, inputs)
    if calib.weights == "compensated":
        round_weights(network, quant, inputs)


def round_weights(network: nn.Module, quant: Quant, inputs: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Round the weights of all layers of `network` that `quant` stores as integers, in place, for `inputs` of windows."""
    own = layers(network)
    for name, product in tqdm(products(network, inputs).items(), desc="round weights", unit="layer", disable=None):
        layer, precision = own[name], precision_of(quant, name)
        if precision.quantize and not precision.dynamic:  # a dynamic part leaves its convolutions in floats
            layer.weight.data = compensated(by_group(layer), product, precision).view_as(layer.weight).float()
