"""`python -m each_process`: the train stage, of which each process leaves in $LEFT what it learnt."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from earshot.stages.train import main
from earshot.train import CtcTraining
from earshot.train.checkpoints import gathered

step_begins = CtcTraining.on_before_optimizer_step


def leave(task: CtcTraining, name: str, content: object) -> None:
    torch.save(content, Path(os.environ["LEFT"], f"{name}{task.global_rank}.pt"))


def on_before_optimizer_step(task: CtcTraining, stepper: torch.optim.Optimizer) -> None:
    """The gradients of the first step, and those that a process finds which has the batches of all."""
    if not task.trainer.global_step:
        batches = [batch for of_process in gathered(task.window) for batch in of_process]
        loss = torch.stack([task.losses(batch)[0] for batch in batches]).mean()
        parameters = dict(task.model.named_parameters())
        alone = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        leave(task, "gradients", {"together": {name: one.grad for name, one in parameters.items()}, "alone": alone})
    step_begins(task, stepper)


def on_train_end(task: CtcTraining) -> None:
    leave(task, "weights", task.model.state_dict())
    leave(task, "validated", sorted(task.validated))


CtcTraining.on_before_optimizer_step, CtcTraining.on_train_end = on_before_optimizer_step, on_train_end
main()
