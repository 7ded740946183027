"""A small Conformer with random weights that looks trained."""

import torch
from torch import nn

from earshot.config import Model
from earshot.model import Conformer

N_MELS, OUTPUTS = 80, 29


def trained(**config) -> Conformer:
    """A model with the statistics, gains and biases of a trained one: none of them is what it is at the start."""
    torch.manual_seed(0)
    values = {"dim": 24, "layers": 2, "heads": 2, "conv_kernel": 7, "subsampling_channels": [6, 10], "dropout": 0.1} | config
    model = Conformer(Model(**values), N_MELS, OUTPUTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if name.endswith("norm.weight") else 0.0))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.3, 2.0)
    return model.eval()
