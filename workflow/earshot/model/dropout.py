"""What training leaves out at random: single values, at less cost than the layers around, and whole blocks."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

_STEPS = 2**16  # a probability is a whole number of 1 / _STEPS


class Dropout(nn.Dropout):
    """PyTorch's, but quicker on a CPU, where that draws a number of 64 bits for each element, one after the other: a fifth of a step.

    Here four elements share a draw of a generator that is quicker than PyTorch's and is seeded by it: what follows from the state of that
    one follows still.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0 or x.device.type != "cpu":
            return super().forward(x)
        dropped = min(round(self.p * _STEPS), _STEPS - 1)
        generator = np.random.SFC64(int(torch.empty((), dtype=torch.int64).random_()))
        draws = torch.from_numpy(generator.random_raw(-(-x.numel() // 4))).view(torch.int16)
        kept = draws[: x.numel()].view(x.shape) >= dropped - _STEPS // 2
        return x * kept.to(x.dtype).mul_(_STEPS / (_STEPS - dropped))


def skipped_by_some(before_btd: torch.Tensor, after_btd: torch.Tensor, p: float) -> torch.Tensor:
    """Stochastic depth (Huang et al., 2016): the result of a block, and for a part `p` of the utterances what the block was given.

    All utterances are computed: processes that train together sum gradients of every weight in each step.
    """
    skips_b = torch.rand(before_btd.shape[0], device=before_btd.device) < p
    return torch.where(skips_b[:, None, None], before_btd, after_btd)
