"""The training step of a Conformer with CTC, its validation, and the learning rate as a function of the audio seen."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import jiwer
import lightning
import torch
from torch.utils.data import DataLoader

from earshot import optimizer
from earshot.config import Decode, Train
from earshot.corpus.manifest import load_cuts
from earshot.data import AudioBatch, Batch, Utterances, batches
from earshot.decode import BLANK_ID, decode
from earshot.errors import TrainingError
from earshot.model import Conformer
from earshot.train.augment import spec_augment, with_silence
from earshot.train.checkpoints import check_processes, gathered, random_state, set_random_state
from earshot.train.memory import Memory, as_if_nothing_happened, longest_batch
from earshot.train.perturb import Perturbation, at_speeds, recordings
from earshot.train.survey import Speech
from earshot.train.throughput import StopWatch

# Lightning starts the loader of each epoch twice, though not in the first one and not where it resumed; each start draws a seed.
LOADER_SEEDS = 2


@dataclass(frozen=True)
class Recognised:
    """An utterance of the development split: its loss, its words, and those that were recognised."""

    loss: float
    text: str
    hypothesis: str


class CtcTraining(lightning.LightningModule):
    """Trains `model` on `speech`. Lightning leaves the optimization to it, so that a batch can go through the network in parts."""

    def __init__(self, model: Conformer, config: Train, speech: Speech, dataset: Utterances, memory: Memory, provenance: dict) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.config, self.speech, self.dataset, self.memory = model, config, speech, dataset, memory
        self.provenance = provenance  # what the checkpoints say of where they come from
        noises, rooms = (recordings(folder, key) if folder else [] for folder, key in ((config.noise, "noise"), (config.rooms, "rooms")))
        self.perturbation = Perturbation(config, noises, rooms) if noises or rooms else None
        self.watch = StopWatch()
        self.seen_s = 0.0  # seconds of audio that this epoch has seen, over all processes
        self.sums = {"loss": 0.0, "utterances": 0}
        self.window: list[Batch] = []  # batches whose gradients the next step of the optimizer takes
        self.resumed: dict[str, Any] | None = None  # the place that a checkpoint was written at, until it is taken up
        self.epoch_ended: dict[str, Any] | None = None  # random numbers as the last epoch left them
        self.validated: dict[str, Recognised] = {}  # by utterance

    # ------------------------------------------------------------ data

    def train_dataloader(self) -> DataLoader:
        c, epoch = self.config, self.current_epoch
        cuts = load_cuts(self.speech.manifests["train"])
        if self.speech.left_out:
            cuts = cuts.filter(self.speech.learns_from)
        perturb = dataclasses.replace(self.perturbation, epoch=epoch) if self.perturbation else None
        dataset = dataclasses.replace(self.dataset, perturb=perturb, on_device=self.device.type != "cpu")
        done = self.resumed["batches"] if self.resumed and self.resumed["epoch"] == epoch else 0
        cuts = at_speeds(cuts, c.speeds, c.seed, epoch)
        short_first = epoch < c.short_first_epochs
        return batches(cuts, dataset, c.batch_s, c.buckets, c.data_workers, True, c.seed, epoch, done, short_first=short_first)

    def val_dataloader(self) -> DataLoader:
        dataset = dataclasses.replace(self.dataset, on_device=self.device.type != "cpu")
        return batches(self.speech.manifests["dev"], dataset, self.config.batch_s, 2, self.config.data_workers, False)

    def on_after_batch_transfer(self, batch: Batch | AudioBatch, dataloader_idx: int) -> Batch:
        if self.trainer.training:
            self.watch.lap("data")
        return batch if isinstance(batch, Batch) else batch.batch(self.dataset.front_end.to(self.device))

    # ------------------------------------------------------------ where an interrupted training goes on

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The batches of an epoch that has ended are no place to go on from: the next one begins with its first.
        ended = self.trainer.is_last_batch
        checkpoint["training"] = {
            "epoch": self.current_epoch,
            "batches": 0 if ended else self.trainer.fit_loop.epoch_loop.batch_progress.current.processed,  # type: ignore[attr-defined]
            "seen_s": self.seen_s,
            "sums": dict(self.sums),
            "random": gathered(random_state(self.device)),
            "processes": self.trainer.world_size,
        }
        checkpoint["provenance"] = self.provenance

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        place = checkpoint["training"]
        check_processes(place["processes"], self.trainer.world_size, place["batches"], self.memory.path.parent)
        if place["processes"] == self.trainer.world_size:
            random_numbers = place["random"][self.global_rank]
            if place["batches"]:
                self.resumed = {**place, "random": random_numbers}
            else:
                self.epoch_ended = random_numbers
        self.seen_s, self.sums = place["seen_s"], dict(place["sums"])

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        if self.resumed:
            set_random_state(self.resumed["random"], self.device)
            self.resumed = None
        elif self.epoch_ended and not batch_index:
            set_random_state(self.epoch_ended, self.device)
            for _ in range(LOADER_SEEDS):
                torch.empty((), dtype=torch.int64).random_()

    def on_validation_end(self) -> None:
        self.epoch_ended = random_state(self.device)

    # ------------------------------------------------------------ training

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer.build(self.model, self.config)

    def on_train_start(self) -> None:
        self.memory.resume()
        if self.device.type == "cuda":
            self.find_memory()
        self.watch.start(self.device)

    def on_train_epoch_start(self) -> None:
        self.seen_s, self.sums = 0.0, {"loss": 0.0, "utterances": 0}

    @property
    def accumulating(self) -> bool:
        """Whether there are gradients that no step of the optimizer has taken yet."""
        return bool(self.window)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        self.watch.lap("features")
        audio_s = self._of_all(batch.audio_s)
        self.watch.steps, self.watch.audio_s = self.watch.steps + 1, self.watch.audio_s + audio_s
        self.seen_s += audio_s
        stepper: Any = self.optimizers()  # one, not a list
        for group in stepper.param_groups:
            group["lr"] = group["peak_lr"] * schedule(self.current_epoch + self.seen_s / self.speech.train_s, self.config)
        last = (batch_index + 1) % self.config.accumulate == 0 or self.trainer.is_last_batch
        self.window.append(batch)
        self.sums["loss"] += self.learn([batch], self.window, last) * len(batch.ids)
        self.sums["utterances"] += len(batch.ids)
        if last:
            with torch.autocast(self.device.type, enabled=False):
                stepper.step()
            stepper.zero_grad()
            self.window = []
            self.watch.lap("optimizer")

    def _of_all(self, seconds: float) -> float:
        """The sum over all processes: the batches of each are its own, and the learning rate follows from what all have seen."""
        return float(self.trainer.strategy.reduce(torch.tensor(seconds, dtype=torch.float64, device=self.device), reduce_op="sum"))

    def learn(self, new: list[Batch], window: list[Batch], last: bool) -> float:
        """Add the gradients of `new` to those of `window`, which it is the end of; the mean loss of the last batch.

        Where memory does not suffice, all of the window is gone through again, in smaller parts.
        """
        while True:
            try:
                for batch in new:
                    loss = self._gradients(batch, last and batch is new[-1])
                return loss
            except torch.OutOfMemoryError:
                pass  # what the exception holds is free only after its block
            self.memory.shrink(batch)
            if self.trainer.world_size > 1 and last:  # the others are summing gradients with this process, or about to
                raise TrainingError(
                    f"out of memory in one of {self.trainer.world_size} processes; start again: training goes on from its last checkpoint, "
                    f"with smaller parts of batches ({self.memory.path})"
                )
            self.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            new = window

    def _gradients(self, batch: Batch, last: bool) -> float:
        """Forward and backward of a batch, in as many parts as memory asks for; its mean loss."""
        total, parts = 0.0, self.memory.parts(batch)
        for part in parts:
            share = len(part.ids) / len(batch.ids)
            loss, logged = self.losses(part)
            seen = float(logged.detach())
            if not math.isfinite(seen):
                self._diverged("loss", [part])
            total += seen * share
            self.watch.lap("forward")
            with torch.autocast(self.device.type, enabled=False), self._apart(not (last and part is parts[-1])):
                self.manual_backward(loss * (share / self.config.accumulate))
            self.watch.lap("backward")
        return total

    def losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss of a batch to learn from, and that of the words that are written in the end, which the curves show."""
        c, features = self.config, batch.features_btf
        # In a part of the batches the padding is heard, as in an exported program, which has a fixed window and no mask.
        hear_padding = random.random() < c.silence_p
        if hear_padding:
            features = with_silence(features, c, self.dataset.front_end)
        blocks, part = len(self.model.blocks), c.intermediate_ctc
        depths = [*intermediate_depths(blocks), blocks] if part else [blocks]
        views = 2 if c.consistency else 1
        masked = torch.cat([spec_augment(features, c) for _ in range(views)])
        logits = [one.chunk(views) for one in self.model.logits_after(depths, masked, batch.lengths_b.repeat(views), hear_padding)]
        # The loss ends with the speech: else the network learns to write the last words late, into a silence that recognition leaves out.
        lengths_b = self.model.output_lengths(batch.lengths_b)
        *losses, loss = [torch.stack([self.loss(view, lengths_b, batch) for view in of_depth]).mean() for of_depth in logits]
        learned = (1 - part) * loss + part * sum(losses) / len(losses) if losses else loss
        if c.consistency:
            one, other = logits[-1]
            learned = learned + c.consistency * disagreement(one, other, lengths_b, batch.target_lengths_b).mean()
        return learned, loss

    def on_before_optimizer_step(self, stepper: torch.optim.Optimizer) -> None:
        parameters = [p for group in stepper.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.grad_clip)
        if not norm.isfinite() and not self._scale_can_be_lowered():
            self._diverged("gradient", self.window)

    def _scale_can_be_lowered(self) -> bool:
        """Whether the loss is scaled: then a step too far is left out, and the scale lowered. Below 1 it is not the scale that is wrong."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler is not None and scaler.get_scale() >= 1

    def _diverged(self, what: str, seen: list[Batch]) -> None:
        ids = ", ".join(utterance for batch in seen for utterance in batch.ids)
        remedy = f"lower train.lr={self.config.lr:g}, or look at these utterances: {ids}"
        raise TrainingError(f"the {what} is no finite number any more in epoch {self.current_epoch + 1}; {remedy}")

    def _apart(self, apart: bool) -> contextlib.AbstractContextManager:
        """With `apart`, the gradients of a backward stay those of this process until a later one sums them over all."""
        strategy: Any = self.trainer.strategy  # of several processes, which has more than its base class
        return strategy.block_backward_sync() if apart and self.trainer.world_size > 1 else contextlib.nullcontext()

    def find_memory(self) -> None:
        """Go through the longest batch there may be, before hours are spent: what does not fit is found now, and on all GPUs alike."""
        silence_s = self.config.silence_max_s if self.config.silence_p else 0.0
        outputs = self.model.output.out_features
        with as_if_nothing_happened(self), self.trainer.precision_plugin.train_step_context():
            longest = longest_batch(self.config.batch_s, self.speech.longest_s, silence_s, outputs, self.dataset.front_end)
            batch = self.trainer.strategy.batch_to_device(longest)
            self.learn([batch], [batch], last=False)
        self.memory.limit_s = min(gathered(self.memory.limit_s))

    # ------------------------------------------------------------ validation

    def on_validation_epoch_start(self) -> None:
        self.validated = {}

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self.validated |= self.recognised(batch)

    def on_validation_epoch_end(self) -> None:
        """Over the utterances of all processes, each once: a sampler may give the last ones to several."""
        found: dict[str, Recognised] = {}
        for of_process in gathered(self.validated):
            found |= of_process
        losses = [one.loss for utterance, one in sorted(found.items()) if utterance not in self.speech.without_loss]
        self.log("dev_loss", sum(losses) / len(losses))
        self.log("dev_wer", word_error_rate(found.values()))

    def recognised(self, batch: Batch) -> dict[str, Recognised]:
        """By utterance, what is recognised."""
        logits_btv = self.model(batch.features_btf, batch.lengths_b).float()
        lengths = self.model.output_lengths(batch.lengths_b)
        pieces = self.dataset.tokenizer.pieces
        losses = self.loss(logits_btv, lengths, batch).tolist()
        said = [decode(logits[:length], pieces, Decode()) for logits, length in zip(logits_btv, lengths, strict=True)]
        return dict(zip(batch.ids, map(Recognised, losses, batch.texts, said), strict=True))

    @staticmethod
    def loss(logits_btv: torch.Tensor, lengths_b: torch.Tensor, batch: Batch) -> torch.Tensor:
        """CTC loss [B] in nats per target piece; an utterance with more pieces than frames counts as zero instead of infinity."""
        log_probs = logits_btv.float().log_softmax(-1).transpose(0, 1)
        losses = torch.nn.functional.ctc_loss(
            log_probs, batch.targets, lengths_b, batch.target_lengths_b, blank=BLANK_ID, reduction="none", zero_infinity=True
        )
        return losses / batch.target_lengths_b.clamp_min(1)


def disagreement(one_btv: torch.Tensor, other_btv: torch.Tensor, lengths_b: torch.Tensor, target_lengths_b: torch.Tensor) -> torch.Tensor:
    """How far two views of utterances are from one opinion [B], in nats per target piece (CR-CTC, Yao et al., 2024,
    https://arxiv.org/abs/2410.05101): the divergence of each view's outputs from the other's, which are taken as they are."""
    one_btv, other_btv = one_btv.float().log_softmax(-1), other_btv.float().log_softmax(-1)
    divergences = [(wanted.detach().exp() * (wanted.detach() - given)).sum(-1) for wanted, given in permutations((one_btv, other_btv))]
    speech_bt = torch.arange(one_btv.shape[1], device=lengths_b.device) < lengths_b[:, None]
    return (sum(divergences) / 2 * speech_bt).sum(1) / target_lengths_b.clamp_min(1)


def word_error_rate(said: Iterable[Recognised]) -> float:
    """Of what was recognised of some utterances."""
    references, hypotheses = zip(*((one.text, one.hypothesis) for one in said), strict=True)
    return jiwer.wer(list(references), list(hypotheses))


def intermediate_depths(blocks: int) -> list[int]:
    """After how many blocks a deep network is asked for the words already, through the same output layer (Lee and Watanabe, 2021).

    CTC alone first learns to write blanks only, the longer the deeper the network; its first blocks leave that sooner.
    """
    return sorted({blocks * quarter // 4 for quarter in (1, 2, 3)} - {0})


def schedule(epochs: float, config: Train) -> float:
    """The learning rate as a part of its peak, after so many (fractional) epochs: a linear warm-up, then the decay to zero."""
    if epochs < config.warmup_epochs:
        return epochs / config.warmup_epochs
    done = min(1.0, (epochs - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9))
    return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[config.schedule]
