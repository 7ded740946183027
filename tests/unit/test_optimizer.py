"""The optimizer of the training computes what the library's own parts compute one parameter after the other."""

import copy

import torch

from earshot import bfloat16, optimizer
from earshot.config import Model, Train
from earshot.model import Conformer


def test_muon_and_adamw_together_make_the_steps_of_the_library(monkeypatch):
    monkeypatch.setattr(bfloat16, "is_native", lambda: True)  # the library's are in bfloat16 on every machine
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


def test_without_bfloat16_muon_makes_about_the_same_steps_in_float32(monkeypatch):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(16, 32)) for _ in range(2)]
    for p in parameters:
        p.grad = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    steps = []
    for p, native in zip(parameters, (True, False), strict=True):
        monkeypatch.setattr(bfloat16, "is_native", lambda native=native: native)
        before = p.detach().clone()
        optimizer.BatchedMuon([p], lr=0.1, weight_decay=0.0).step()
        steps.append((p.detach() - before).flatten())
    assert torch.nn.functional.cosine_similarity(*steps, dim=0) > 0.999
    assert not torch.equal(*steps)
