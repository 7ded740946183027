"""`python -m short_of_memory`: the train stage, whose second process is on a device that takes no more than $FRAMES frames at once."""

from __future__ import annotations

import os

import torch
import torch.distributed

from earshot.model import Conformer
from earshot.stages.train import main

forward = Conformer.logits_after


def limited(self: Conformer, depths, x_btf, *rest):
    second = torch.distributed.is_initialized() and torch.distributed.get_rank() == 1
    if second and self.training and x_btf.shape[0] * x_btf.shape[1] > int(os.environ["FRAMES"]):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return forward(self, depths, x_btf, *rest)


Conformer.logits_after = limited
main()
