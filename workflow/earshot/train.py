"""Training of the Conformer with CTC: the step, the schedule, and what is kept of each epoch."""

from __future__ import annotations

import logging
import math
import os
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jiwer
import lightning
import torch
import torchaudio
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from earshot import bfloat16, curves, optimizer
from earshot.config import SAMPLE_RATE_HZ, Decode, Train
from earshot.data import Batch, Utterances, batches
from earshot.decode import BLANK_ID, decode
from earshot.features import FrontEnd
from earshot.model import Conformer


class CtcTraining(lightning.LightningModule):
    """One training step, one validation step, and the learning rate as a function of the audio seen."""

    def __init__(self, model: Conformer, config: Train, train_s: float, dataset: Utterances, manifests: dict[str, Path]) -> None:
        super().__init__()
        self.model, self.config, self.dataset, self.manifests = model, config, dataset, manifests
        self.train_s = train_s  # seconds of audio in an epoch
        self.seen_s = 0.0  # seconds of audio that this epoch has seen, over all processes
        self.sums = {"loss": 0.0, "utterances": 0}
        self.hypotheses: list[tuple[str, str]] = []

    def train_dataloader(self):
        c = self.config
        return batches(self.manifests["train"], self.dataset, c.batch_s, c.buckets, c.data_workers, True, c.seed, self.current_epoch)

    def val_dataloader(self):
        return batches(self.manifests["dev"], self.dataset, self.config.batch_s, 2, 0, False)

    def configure_optimizers(self):
        return optimizer.build(self.model, self.config)

    def on_train_epoch_start(self) -> None:
        self.seen_s, self.sums = 0.0, {"loss": 0.0, "utterances": 0}

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        self.seen_s += batch.audio_s * self.trainer.world_size
        for group in self.optimizers().param_groups:
            group["lr"] = group["peak_lr"] * schedule(self.current_epoch + self.seen_s / self.train_s, self.config)
        features, lengths = batch.features_btf, batch.lengths_b
        # In a part of the batches the padding is heard, as in an exported program, which has a fixed window and no mask.
        hear_padding = random.random() < self.config.silence_p
        if hear_padding:
            features = with_silence(features, self.config, self.dataset.front_end)
        blocks, part = len(self.model.blocks), self.config.intermediate_ctc
        depths = [*intermediate_depths(blocks), blocks] if part else [blocks]
        logits = self.model.logits_after(depths, spec_augment(features, self.config), lengths, hear_padding)
        # The loss ends with the speech: else the network learns to write the last words late, into a silence that recognition leaves out.
        *losses, loss = [self.loss(logits_btv, self.model.output_lengths(lengths), batch).mean() for logits_btv in logits]
        self.sums["loss"] += float(loss.detach()) * len(batch.ids)
        self.sums["utterances"] += len(batch.ids)
        return (1 - part) * loss + part * sum(losses) / len(losses) if losses else loss

    def on_validation_epoch_start(self) -> None:
        self.hypotheses = []

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        logits_btv = self.model(batch.features_btf, batch.lengths_b).float()
        lengths = self.model.output_lengths(batch.lengths_b)
        loss = self.loss(logits_btv, lengths, batch)
        self.log("dev_loss", loss.mean(), batch_size=len(batch.ids), sync_dist=True)
        for logits, length, text in zip(logits_btv, lengths, batch.texts, strict=True):
            self.hypotheses.append((text, decode(logits[:length], self.dataset.tokenizer.pieces, Decode())))

    def on_validation_epoch_end(self) -> None:
        references, hypotheses = zip(*self.hypotheses, strict=True)
        self.log("dev_wer", jiwer.wer(list(references), list(hypotheses)), sync_dist=True)

    @staticmethod
    def loss(logits_btv: torch.Tensor, lengths_b: torch.Tensor, batch: Batch) -> torch.Tensor:
        """CTC loss [B] in nats per target piece; an utterance with more pieces than frames counts as zero instead of infinity."""
        log_probs = logits_btv.float().log_softmax(-1).transpose(0, 1)
        losses = torch.nn.functional.ctc_loss(
            log_probs, batch.targets, lengths_b, batch.target_lengths_b, blank=BLANK_ID, reduction="none", zero_infinity=True
        )
        return losses / batch.target_lengths_b.clamp_min(1)


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


def with_silence(features_btf: torch.Tensor, config: Train, front_end: FrontEnd) -> torch.Tensor:
    """The padded batch with up to `silence_max_s` more of silence: what a short utterance looks like in the fixed window of a program."""
    extra = int(random.uniform(0, config.silence_max_s) * SAMPLE_RATE_HZ / front_end.hop_length)
    silence = front_end.silence().to(features_btf).expand(features_btf.shape[0], extra, -1)
    return torch.cat([features_btf, silence], dim=1)


def spec_augment(features_btf: torch.Tensor, config: Train) -> torch.Tensor:
    """Masks of frequency and time, other ones for each utterance, filled with the mean (Park et al., 2019)."""
    x = features_btf.transpose(1, 2).unsqueeze(1)  # [B, 1, n_mels, T]
    mask = torchaudio.functional.mask_along_axis_iid
    for _ in range(config.freq_masks):
        x = mask(x, mask_param=config.freq_mask_bins, mask_value=0.0, axis=2)
    longest = int(config.time_mask_fraction * x.shape[3])
    for _ in range(config.time_masks if longest else 0):
        x = mask(x, mask_param=longest, mask_value=0.0, axis=3)
    return x.squeeze(1).transpose(1, 2)


class Curves(Callback):
    """Writes a row of curves.csv for each epoch, prints it, and hands it to `sink`."""

    def __init__(self, path: Path, sink: Callable[[dict[str, float], int], None]) -> None:
        self.path, self.sink, self.started = path, sink, 0.0

    def on_train_epoch_start(self, trainer, module) -> None:
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer, module) -> None:
        if not trainer.is_global_zero:
            return
        seconds = time.monotonic() - self.started
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
        self.sink({key: value for key, value in row.items() if key not in ("epoch", "step")}, trainer.global_step)


class AveragedWeights(WeightAveraging):
    """An exponential moving average over the steps; validated, and kept in the checkpoint beside the weights that training goes on from."""

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def weights(self) -> dict[str, torch.Tensor]:
        """The averaged weights, by the names of the network's own."""
        return self._average_model.module.model.state_dict()


def precision(config: Train) -> str:
    """Lightning's name of the precision to train in: that of the configuration, or float32 where bfloat16 would be slower."""
    if config.precision == "bf16" and bfloat16.is_native():
        return "bf16-mixed"
    if config.precision == "bf16":
        print("train.precision=bf16: this processor has no instructions for it; training in float32, which is faster here", flush=True)
    return "32-true"


def fit(task: CtcTraining, state: Path, sink: Callable[[dict[str, float], int], None]) -> dict[str, torch.Tensor]:
    """Train, going on from `state` where it holds a checkpoint, and return the averaged float32 weights."""
    config = task.config
    average = AveragedWeights(config.ema_decay)
    callbacks: list[Callback] = [
        average,
        Curves(state / "curves.csv", sink),
        ModelCheckpoint(dirpath=state, filename="epoch", save_top_k=1, every_n_epochs=1, save_last="link", enable_version_counter=False),
    ]
    if config.patience_epochs:
        callbacks.append(EarlyStopping(monitor="dev_loss", patience=config.patience_epochs))
    # Advertisements, and what a resumed training does on purpose.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    trainer = lightning.Trainer(
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=config.strategy,
        precision=precision(config),
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.grad_clip,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=os.isatty(2),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # lhotse's sampler shares the cuts out itself
        reload_dataloaders_every_n_epochs=1,  # each epoch has an order of its own
        default_root_dir=state,
    )
    checkpoint = state / "epoch.ckpt"
    trainer.fit(task, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
    return {name: tensor.float() for name, tensor in average.weights().items()}
