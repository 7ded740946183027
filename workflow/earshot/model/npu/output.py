"""The output layer of the NPU form: of the stream for the NPU, of rows for the CPU, for which the compiler would transpose the stream."""

from __future__ import annotations

import torch
from torch import nn

from earshot.model.conformer import Conformer
from earshot.model.npu.folding import Affine, linear, pointwise
from earshot.model.npu.layers import as_rows


def output_layer(plain: Conformer, on_cpu: bool) -> nn.Conv2d | nn.Linear:
    """The output layer of a network whose last block ends with its normalisation."""
    affine = Affine.of(plain.output).after_norm(plain.blocks[-1].norm)
    return linear(affine) if on_cpu else pointwise(affine)


def logits(output: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The stream [1, D, 1, T] to logits [1, T, V]."""
    return output(as_rows(x)) if isinstance(output, nn.Linear) else as_rows(output(x))
