"""Checkpoints that a training can be gone on with, in the middle of an epoch too: when they are written, how, and which one is read."""

from __future__ import annotations

import io
import logging
import os
import pickle
import random
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from earshot.errors import ConfigError, StorageError
from earshot.files import atomic, damage

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"

logger = logging.getLogger(__name__)


class TwoGenerations(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and keeps the one before it. A disk that is full is told, and training goes on."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            with atomic(path) as temporary:
                with open(temporary, "wb") as stream:
                    stream.write(content.getbuffer())
                    stream.flush()
                    os.fsync(stream.fileno())
                if path.exists():
                    os.replace(path, path.with_name(PREVIOUS))
        except (OSError, StorageError) as error:
            logger.warning("%s: not written (%s); the checkpoint before it is kept. Free some space", path, error)


def newest(state: Path) -> Path | None:
    """The newest checkpoint that is whole; one that is not is put aside, with a warning. None where there is none."""
    for path in (state / LAST, state / PREVIOUS):
        if not path.exists():
            continue
        reason = damage(path) or _unreadable(path)
        if reason is None:
            return path
        damaged = path.with_name(f"{path.name}.damaged")
        path.rename(damaged)
        logger.warning("%s: damaged (%s); put aside as %s, the one before it is used if there is one", path, reason, damaged.name)
    return None


def _unreadable(path: Path) -> str | None:
    """Why PyTorch cannot read a checkpoint; None where it can."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


class Checkpoints(Callback):
    """A checkpoint after each epoch, every so many seconds between, and when something stops the training between two batches."""

    def __init__(self, state: Path, every_s: float) -> None:
        self.path, self.every_s = state / LAST, every_s
        self.saved_at = time.monotonic()
        self.between_batches = False

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self.saved_at = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_index: int) -> None:
        self.between_batches = False

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        # Gradients are no part of a checkpoint: none is written while they are accumulated. After the last batch comes that of the epoch.
        if module.accumulating or trainer.is_last_batch:
            return
        self.between_batches = True
        # The clocks of the processes differ: all do what the first one says.
        if trainer.strategy.broadcast(time.monotonic() - self.saved_at >= self.every_s):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        self._save(trainer)

    def on_exception(self, trainer: Trainer, module: Any, exception: BaseException) -> None:
        if self.between_batches and trainer.world_size == 1:  # of several processes, the others may be anywhere
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.saved_at = time.monotonic()


def gathered(item: Any) -> list[Any]:
    """What each process has of `item`, in the order of their ranks; all of them must ask."""
    if not torch.distributed.is_initialized():
        return [item]
    items = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(items, item)
    return items


def random_state(device: torch.device) -> dict[str, Any]:
    """Of all generators that a training step draws from."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"python": random.getstate(), "cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """What `random_state` gave; on another kind of device what is there of it."""
    random.setstate(state["python"])
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def check_processes(then: int, now: int, batches: int, path: Path) -> None:
    """A place within an epoch is one among the batches of as many processes.

    Raises:
        ConfigError: there are more or fewer now.
    """
    if batches and then != now:
        reason = f"written in the middle of an epoch by {then} processes, and here are {now}"
        raise ConfigError(f"{path}: {reason}; go on with train.devices times train.nodes of {then}, or delete the folder {path.parent}")
