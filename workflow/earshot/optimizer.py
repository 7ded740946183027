"""The optimizers of the training: AdamW, or Muon for the matrices of the blocks with AdamW for all other parameters."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from earshot import bfloat16
from earshot.config import Train
from earshot.model import Conformer


def build(model: Conformer, config: Train) -> torch.optim.Optimizer:
    """The optimizer that the configuration asks for; each of its parameter groups holds its peak learning rate as `peak_lr`."""
    adamw = {"lr": config.lr, "peak_lr": config.lr, "weight_decay": config.weight_decay}
    # Fused, it goes through the memory of all parameters once: a fifth of the time, on a CPU too. But then it is also the one that takes
    # back the scale of a loss, after the gradients were clipped.
    common: dict[str, Any] = {"betas": (0.9, 0.98), ("foreach" if config.precision == "fp16" else "fused"): True}
    if config.optimizer == "adamw":
        return torch.optim.AdamW([{"params": list(model.parameters()), **adamw}], **common)
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = {"lr": config.muon_lr, "peak_lr": config.muon_lr, "weight_decay": 0.0}
    return Together(BatchedMuon([{"params": matrices, **muon}]), torch.optim.AdamW([{"params": rest, **adamw}], **common))


class BatchedMuon(torch.optim.Muon):
    """`torch.optim.Muon` that orthogonalises the matrices of one shape together: the same updates, in fewer and larger products."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for (rows, columns), parameters in alike.items():
                for p in parameters:
                    if not self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p.grad)
                buffers, momentum = [self.state[p]["momentum_buffer"] for p in parameters], group["momentum"]
                gradients = torch.stack([p.grad for p in parameters])
                torch._foreach_lerp_(buffers, [p.grad for p in parameters], 1 - momentum)
                steps = gradients.lerp(torch.stack(buffers), momentum)  # Nesterov's
                updates = orthogonalise(steps, group["ns_coefficients"], group["ns_steps"], group["eps"]).to(steps.dtype)
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates), alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))
        return loss


def orthogonalise(matrices_nij: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """About the nearest orthogonal matrix to each, in bfloat16 where the machine has it, by the quintic Newton-Schulz iteration.

    Source: K. Jordan, "Muon: An optimizer for hidden layers in neural networks", https://kellerjordan.github.io/posts/muon/
    """
    a, b, c = coefficients
    tall = matrices_nij.shape[1] > matrices_nij.shape[2]
    x = matrices_nij.to(torch.bfloat16 if bfloat16.is_native() else torch.float32)
    x = x.transpose(1, 2) if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(eps)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


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
