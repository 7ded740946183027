"""The optimizer of the training computes what the library's own parts compute one parameter after the other."""

import copy

import torch

from earshot import optimizer
from earshot.config import Model, Train
from earshot.model import Conformer


def test_muon_and_adamw_together_make_the_steps_of_the_library():
    torch.manual_seed(0)
    model = Conformer(Model(dim=16, layers=2, heads=2, conv_kernel=3, subsampling_channels=[4, 4]), 80, 9)
    other = copy.deepcopy(model)
    config = Train(optimizer="muon", weight_decay=1e-3)
    ours = optimizer.build(model, config)
    matrices = [p for p in other.blocks.parameters() if p.ndim == 2]
    rest = [p for p in other.parameters() if not any(p is q for q in matrices)]
    theirs = [
        torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98)),
    ]
    for _ in range(3):
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step()
        for one in theirs:
            one.step()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-3, msg=name)  # products in bfloat16 round by their order
