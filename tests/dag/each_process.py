"""`python -m each_process`: the train stage, of which each process leaves the weights that it ends with in $WEIGHTS."""

from __future__ import annotations

import os

import torch

from earshot.stages.train import main
from earshot.train import CtcTraining


def on_train_end(task: CtcTraining) -> None:
    torch.save(task.model.state_dict(), os.path.join(os.environ["WEIGHTS"], f"{task.global_rank}.pt"))


CtcTraining.on_train_end = on_train_end
main()
