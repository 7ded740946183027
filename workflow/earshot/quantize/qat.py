"""Quantization-aware training: a network that is rounded as its program will be learns to say what the float network says.

It is taught by distillation (Hinton et al., 2015, https://arxiv.org/abs/1503.02531): the float network's posteriors of each frame are the
target, so no transcripts are needed, and any part of an utterance will do. Gradients pass rounding as if it were not there, within a range.

Two programs of one network are trained as one: `taught` takes batches of windows; `averaged` takes a window, as the program that is saved
does, and holds the moving average of the weights. Ranges of activations are observed on `averaged`, with the speech of calibration.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import torch
from torch import nn
from torch.fx import GraphModule
from tqdm import tqdm

from earshot import curves, windows
from earshot.config import Decode, Qat
from earshot.corpus.manifest import read_audio
from earshot.decode import decode
from earshot.errors import ArtifactError, ConfigError
from earshot.features import FrontEnd
from earshot.files import atomic, damage
from earshot.model import Conformer
from earshot.quantize import fake
from earshot.quantize.calibrate import Utterance
from earshot.windows import fit_window

STATE, CURVES = "training.pt", "curves.csv"
Inputs = list[tuple[torch.Tensor, ...]]


class Speech:
    """Training windows: of each utterance a part as long as the window, or all of it and silence behind."""

    def __init__(self, utterances: list[Utterance], front_end: FrontEnd, frames: int, seed: int) -> None:
        self.utterances, self.front_end, self.frames, self.seed = utterances, front_end, frames, seed
        self._turn = -1
        self._order: list[int] = []

    def batch(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows number first ... first + count - 1: [count, frames, n_mels], and the frames of speech in each, [count].

        Each pass over the utterances has an order and parts of its own; a number always means the same window.
        """
        found = [self._window(number) for number in range(first, first + count)]
        return torch.cat([x for x, _ in found]), torch.tensor([spoken for _, spoken in found])

    def _window(self, number: int) -> tuple[torch.Tensor, int]:
        turn, place = divmod(number, len(self.utterances))
        if self._turn != turn:
            self._turn, self._order = turn, random.Random(f"{self.seed} {turn}").sample(range(len(self.utterances)), len(self.utterances))
        features = self.front_end(read_audio(self.utterances[self._order[place]].path))
        start = random.Random(f"{self.seed} {number}").randint(0, max(0, len(features) - self.frames))
        features = features[start : start + self.frames]
        return fit_window(features, self.front_end, self.frames), len(features)


@dataclass
class Dev:
    """Utterances that the training is looked at with: features [T, n_mels], words, and what the float network says, [T', V]."""

    features: list[torch.Tensor]
    texts: list[str]
    layout: windows.Layout
    front_end: FrontEnd
    pieces: list[str]
    wanted: list[torch.Tensor]

    @classmethod
    def of(
        cls, network: nn.Module, utterances: list[tuple[str, str]], layout: windows.Layout, front_end: FrontEnd, pieces: list[str]
    ) -> Dev:
        """`utterances` are audio files and their words; `network` is the float one, of windows."""
        features = [front_end(read_audio(path)) for path, _ in utterances]
        made = cls(features, [text for _, text in utterances], layout, front_end, pieces, [])
        made.wanted = made.logits(network)
        return made

    @torch.no_grad()
    def logits(self, network: nn.Module) -> list[torch.Tensor]:
        """What a network of windows says of each utterance."""
        silence = self.front_end.silence()
        return [windows.run(lambda x: network(x[None])[0], one, self.layout, silence) for one in self.features]

    def look(self, network: nn.Module, temperature: float) -> dict[str, float]:
        """Loss and WER."""
        found = self.logits(network)
        losses = [divergence(one, wanted, temperature) for one, wanted in zip(found, self.wanted, strict=True)]
        hypotheses = [decode(one, self.pieces, Decode()) for one in found]
        return {"dev_loss": float(torch.cat(losses).mean()), "dev_wer": jiwer.wer(self.texts, hypotheses)}


def divergence(logits: torch.Tensor, wanted: torch.Tensor, temperature: float) -> torch.Tensor:
    """Kullback-Leibler divergence, in nats, of the posteriors [..., V] from the wanted ones, both at a temperature: [...].

    Times its square, so that the gradient is about as large at any temperature (Hinton et al., section 2.1).
    """
    log_p, log_q = (x.div(temperature).log_softmax(-1) for x in (wanted, logits))
    return (log_p.exp() * (log_p - log_q)).sum(-1) * temperature**2


def learning_rate(step: int, config: Qat) -> float:
    """As a part of its peak: a linear warm-up, then half a cosine to zero."""
    warmup = config.warmup * config.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, config.steps - warmup)))


class Training:
    """Quantization-aware training that can be left after any of its periods and gone on with."""

    def __init__(self, config: Qat, teacher: Conformer, taught: GraphModule, averaged: GraphModule, state: Path) -> None:
        """`taught` and `averaged` have equal weights; those of `taught` that take gradients are trained."""
        self.config, self.teacher, self.taught, self.averaged, self.state = config, teacher, taught, averaged, state
        self.weights = {name: parameter for name, parameter in taught.named_parameters() if parameter.requires_grad}
        own = dict(averaged.named_parameters())
        self.average = {name: own[name] for name in self.weights}
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, foreach=True
        )
        self.step = 0
        self.best: dict[str, Any] = {}

    def fit(self, speech: Speech, calibration: Inputs, dev: Dev) -> Iterator[dict[str, float]]:
        """Train from where `state` stands; yields a row of the curves at the beginning of each period, and at the end.

        What `averaged` holds in the end is the best of all rows, which may be that before the first step: a program of 8 bits can be so
        near to the float network that training only leads away from it.
        """
        self._resume()
        with tqdm(total=self.config.steps, initial=self.step, desc="quantization-aware training", unit="step", disable=None) as bar:
            losses: list[float] = []
            while True:
                at_boundary = self.step % self.config.period == 0 or self.step == self.config.steps
                if at_boundary and not self._known():
                    if self.step <= self.config.freeze_after * self.config.steps:
                        fake.observe(self.averaged, calibration)
                        fake.put_ranges(self.taught, fake.ranges(self.averaged))
                    row = {"step": self.step, "train_loss": sum(losses) / len(losses) if losses else math.nan}
                    row |= dev.look(self.averaged, self.config.temperature)
                    losses = []
                    self._keep(row)
                    yield row
                if self.step == self.config.steps:
                    break
                losses.append(self._learn(*speech.batch(self.step * self.config.batch, self.config.batch)))
                bar.update()
                bar.set_postfix(loss=f"{losses[-1]:.3f}")
        self._put(self.best["average"], self.best["ranges"])
        with torch.no_grad():
            self.averaged(*calibration[0])  # weights are rounded by their range when the network last ran

    def _learn(self, x_btf: torch.Tensor, frames_b: torch.Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * learning_rate(self.step, self.config)
        with torch.no_grad():
            wanted = self.teacher(x_btf)
        spoken_bt = torch.arange(wanted.shape[1]) < self.teacher.output_lengths(frames_b)[:, None]
        loss = divergence(self.taught(x_btf)[spoken_bt], wanted[spoken_bt], self.config.temperature).mean()
        if spoken_bt.any():
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.weights.values(), self.config.grad_clip)
            if not norm.isfinite():
                raise ConfigError(f"quant.qat: training diverged at step {self.step}; lower quant.qat.lr={self.config.lr:g}")
            self.optimizer.step()
        self.step += 1
        # Early on the average is of few steps: it is to follow them, not where they started.
        decay = min(self.config.ema_decay, self.step / (self.step + 9))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - decay)
        return float(loss.detach())

    # ------------------------------------------------------------ state

    def _known(self) -> bool:
        """Whether this step has its row already: training goes on from there."""
        return any(int(row["step"]) == self.step for row in curves.read(self.state / CURVES))

    def _keep(self, row: dict[str, float]) -> None:
        """The row last: with it the state is whole."""
        own = {"average": dict(self.average), "ranges": fake.ranges(self.averaged)}
        if not self.best or row["dev_loss"] < self.best["dev_loss"]:
            self.best = {"step": self.step, "dev_loss": row["dev_loss"], **copy.deepcopy(own)}
        content = {
            "step": self.step,
            "weights": dict(self.weights),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            **own,
        }
        with atomic(self.state / STATE) as temporary:
            torch.save(content, temporary)
        curves.add(self.state / CURVES, row, by="step")

    @torch.no_grad()
    def _resume(self) -> None:
        if not (self.state / STATE).exists():
            return
        if reason := damage(self.state / STATE):
            raise ArtifactError(f"{self.state / STATE}: damaged ({reason}); delete it and run the quantize step again, which trains anew")
        content: dict[str, Any] = torch.load(self.state / STATE, weights_only=True)
        self.step, self.best = content["step"], content["best"]
        for name, parameter in self.weights.items():
            parameter.copy_(content["weights"][name])
        self.optimizer.load_state_dict(content["optimizer"])
        self._put(content["average"], content["ranges"])

    @torch.no_grad()
    def _put(self, average: dict[str, torch.Tensor], ranges: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for name, parameter in self.average.items():
            parameter.copy_(average[name])
        for graph in (self.taught, self.averaged):
            fake.put_ranges(graph, ranges)
