"""Batches that do not fit the memory of a GPU go through the network in parts.

The sampler's batches stay as they are: an interrupted training finds its place, and a step of the optimizer has the same utterances on any
GPU. Only batch normalisation sees the part instead of the whole.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import Iterator
from pathlib import Path

import torch

from earshot.config import SAMPLE_RATE_HZ
from earshot.data import Batch, padded_s
from earshot.errors import TrainingError
from earshot.features import FrontEnd
from earshot.files import read_json, write_json

logger = logging.getLogger(__name__)


class Memory:
    """How many seconds of padded audio go through the network at once: all of a batch, until that turns out to be too much."""

    def __init__(self, path: Path, front_end: FrontEnd) -> None:
        self.path, self.front_end, self.limit_s = path, front_end, math.inf

    def resume(self) -> None:
        """Begin with what an earlier session has found."""
        if self.path.exists():
            self.limit_s = read_json(self.path)["limit_s"]

    def parts(self, batch: Batch) -> list[Batch]:
        """The batch in as many parts as its length asks for."""
        return batch.parts(min(len(batch.ids), math.ceil(padded_s(batch, self.front_end) / self.limit_s) or 1))

    def shrink(self, batch: Batch) -> None:
        """The parts of this batch were too large: from now on they are half as long, in the sessions to come too.

        Raises:
            TrainingError: they were of one utterance already.
        """
        largest = max(self.parts(batch), key=lambda part: padded_s(part, self.front_end))
        seconds = padded_s(largest, self.front_end)
        if len(largest.ids) == 1:
            reason = f"{largest.ids[0]} ({seconds:.1f} s, padded) alone does not fit the memory of the device"
            raise TrainingError(f"{reason}; lower corpus.max_duration_s or train.silence_max_s, or choose a smaller model")
        self.limit_s = seconds / 2
        write_json(self.path, {"limit_s": self.limit_s})
        logger.warning(
            "out of memory with %.0f s of audio at once: batches now go through the network in parts of at most %.0f s (%s)",
            seconds,
            self.limit_s,
            self.path,
        )


def longest_batch(batch_s: float, longest_s: float, silence_s: float, outputs: int, front_end: FrontEnd) -> Batch:
    """A batch of noise as large as the sampler may make one, of utterances as long as the longest: attention's memory grows with length."""
    count = max(1, int(batch_s / longest_s))
    frames = front_end.frames(int((longest_s + silence_s) * SAMPLE_RATE_HZ))
    pieces = max(1, frames // 16)
    return Batch(
        torch.randint(1, outputs, (count * pieces,)),
        torch.full((count,), pieces),
        [""] * count,
        [f"utterance {i + 1} of the longest" for i in range(count)],
        count * longest_s,
        torch.randn(count, frames, front_end.n_mels),
        torch.full((count,), frames),
    )


@contextlib.contextmanager
def as_if_nothing_happened(module: torch.nn.Module) -> Iterator[None]:
    """Afterwards the random numbers and the buffers of `module` are what they were, and it has no gradients."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    state = random.getstate()
    devices = [p.device for p in module.parameters() if p.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(state)
            module.zero_grad(set_to_none=True)
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])
