"""What is kept of each epoch: its row of the curves, and its weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from earshot import curves
from earshot.files import atomic

Sink = Callable[[dict[str, float], int], None]


class Curves(Callback):
    """Writes a row of curves.csv for each epoch, prints it, and hands it to `sink`."""

    def __init__(self, path: Path, sink: Sink) -> None:
        self.path, self.sink = path, sink
        self.started, self.before_s = time.monotonic(), 0.0  # of this epoch: when this session began it, seconds in earlier ones

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self.started = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        self.started, self.before_s = time.monotonic(), 0.0

    def state_dict(self) -> dict[str, float]:
        return {"epoch_s": self._epoch_s()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.before_s = state_dict["epoch_s"]

    def _epoch_s(self) -> float:
        return self.before_s + time.monotonic() - self.started

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        seconds = self._epoch_s()
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "train_loss": module.sums["loss"] / max(module.sums["utterances"], 1),
            "dev_loss": float(trainer.callback_metrics["dev_loss"]),
            "dev_wer": float(trainer.callback_metrics["dev_wer"]),
            "lr": module.optimizers().param_groups[0]["lr"],
            "epoch_s": seconds,
            "x_realtime": module.seen_s / seconds,
        }
        curves.add(self.path, row, by="epoch")
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  train loss {row['train_loss']:.3f}  dev loss {row['dev_loss']:.3f}  "
            f"dev WER {row['dev_wer']:.1%}  {row['x_realtime']:.0f} times real time",
            flush=True,
        )
        shares = {f"step_share_{part}": share for part, share in module.watch.summary()["share"].items()}
        self.sink({key: value for key, value in row.items() if key not in ("epoch", "step")} | shares, trainer.global_step)


class AveragedWeights(WeightAveraging):
    """An exponential moving average over the steps; validated, and kept in the checkpoint beside the weights that training goes on from."""

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def weights(self) -> dict[str, torch.Tensor]:
        """The averaged weights, by the names of the network's own."""
        averaged: Any = self._average_model  # of the Lightning module
        return averaged.module.model.state_dict()


class KeptEpochs(Callback):
    """Keeps the moving averages of some epochs as they ended, `folder`/0007.safetensors: the last ones, and those with the lowest WER."""

    def __init__(self, folder: Path, rows: Path, average: AveragedWeights, count: int) -> None:
        self.folder, self.rows, self.average, self.count = folder, rows, average, count

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(exist_ok=True)
        with atomic(self._file(trainer.current_epoch)) as temporary:
            safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in self.average.weights().items()}, temporary)
        wanted = {self._file(epoch) for epoch in (*self.chosen("last"), *self.chosen("best"))}
        for path in set(self.folder.glob("[0-9]*.safetensors")) - wanted:
            path.unlink()

    def _file(self, epoch: int) -> Path:
        return self.folder / f"{epoch:04d}.safetensors"

    def chosen(self, which: str) -> list[int]:
        """The epochs of `last` or `best`; of two with one WER the later one is better."""
        rows = [(float(row["dev_wer"]), -int(row["epoch"])) for row in curves.read(self.rows)]
        rows.sort(key=None if which == "best" else lambda row: row[1])
        return sorted(-epoch for _, epoch in rows[: self.count])

    def mean(self, which: str) -> dict[str, torch.Tensor]:
        """The mean of the weights of these epochs; a count, as batch normalisation has one, is that of the last of them."""
        sets = [safetensors.torch.load_file(self._file(epoch)) for epoch in self.chosen(which)]
        return {
            name: torch.stack([tensors[name] for tensors in sets]).mean(0) if last.is_floating_point() else last
            for name, last in sets[-1].items()
        }
