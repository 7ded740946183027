"""Where the time of a training goes: seconds of audio per second, and the parts of a step."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from earshot.files import write_json

# data: waiting for a batch, and bringing it to the device; features: computing them there; other: the moving average, checkpoints
PARTS = ("data", "features", "forward", "backward", "optimizer", "other")


class StopWatch:
    """Seconds of each part of the steps so far, and how much audio they took; a GPU is waited for at the end of each part."""

    def __init__(self) -> None:
        self.start(torch.device("cpu"))

    def start(self, device: torch.device) -> None:
        """From now on."""
        self.device = device
        self.seconds, self.steps, self.audio_s = dict.fromkeys(PARTS, 0.0), 0, 0.0
        self.skip()

    def skip(self) -> None:
        """What was done since the last part counts for none."""
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """What was done since the last part was this one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now

    def summary(self) -> dict:
        """As throughput.json has it."""
        total = sum(self.seconds.values())
        return {
            "steps": self.steps,
            "audio_s": self.audio_s,
            "audio_s_per_s": self.audio_s / total if total else 0.0,
            "step_s": {part: seconds / max(self.steps, 1) for part, seconds in self.seconds.items()},
            "share": {part: seconds / total if total else 0.0 for part, seconds in self.seconds.items()},
        }


class Throughput(Callback):
    """Keeps the watch of the training module and writes what it shows; the last of the callbacks, so that the time of the others counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
        module.watch.lap("other")

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        module.watch.skip()
        if trainer.is_global_zero:
            write_json(self.path, {"processes": trainer.world_size, "device": str(module.device), **module.watch.summary()})
