"""The optimizers of the training: AdamW, or Muon for the matrices of the blocks with AdamW for all other parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from earshot.config import Train
from earshot.model import Conformer


def build(model: Conformer, config: Train) -> torch.optim.Optimizer:
    """The optimizer that the configuration asks for; each of its parameter groups holds its peak learning rate as `peak_lr`."""
    adamw = {"lr": config.lr, "peak_lr": config.lr, "weight_decay": config.weight_decay}
    betas = (0.9, 0.98)
    if config.optimizer == "adamw":
        return torch.optim.AdamW([{"params": list(model.parameters()), **adamw}], betas=betas)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = {"lr": config.muon_lr, "peak_lr": config.muon_lr, "weight_decay": 0.0}
    return Together(torch.optim.Muon([{"params": matrices, **muon}]), torch.optim.AdamW([{"params": rest, **adamw}], betas=betas))


class Together(torch.optim.Optimizer):
    """Several optimizers, each with its own parameters, as one: Lightning's loop takes one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        super().__init__([{"params": group["params"]} for part in parts for group in part.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()
