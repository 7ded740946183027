"""A whole training: its processes, what it goes on from, and the weights that it ends with."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from earshot import bfloat16, curves
from earshot.config import Train
from earshot.data import batches
from earshot.errors import ConfigError, DataError, TrainingError
from earshot.files import write_json
from earshot.resuming import fresh_state
from earshot.train.callbacks import AveragedWeights, Curves, KeptEpochs, Sink
from earshot.train.checkpoints import Checkpoints, TwoGenerations, newest
from earshot.train.ctc import CtcTraining, Recognised, word_error_rate
from earshot.train.throughput import Throughput


@dataclass
class Fitted:
    """The result of a training: float32 weights, and their word error rate on the development split."""

    weights: dict[str, torch.Tensor]
    dev_wer: float


def fit(task: CtcTraining, state: Path, fingerprint: dict, sink: Sink) -> Fitted | None:
    """Train, going on from `state` where it holds a checkpoint of the training that `fingerprint` is of.

    Returns:
        The weights that the configuration asks for; in a process that is not the first of several, None.

    Raises:
        ConfigError: the processes or devices are not those of this machine, or not those of the checkpoint.
        TrainingError: training cannot go on; what has been done is kept in `state`.
    """
    config = task.config
    average = AveragedWeights(config.ema_decay)
    kept = KeptEpochs(state / "epochs", state / "curves.csv", average, config.kept_epochs)
    callbacks: list[Callback] = [average, Curves(state / "curves.csv", sink), kept]
    if config.patience_epochs:
        callbacks.append(EarlyStopping(monitor="dev_loss", patience=config.patience_epochs))
    callbacks += [Checkpoints(state, config.checkpoint_every_s), Throughput(state / "throughput.json")]
    # Advertisements, and what is done on purpose: within a Slurm job the training starts its processes itself.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for notice in (".*LeafSpec.*", ".*`srun` command is available.*"):
        warnings.filterwarnings("ignore", notice)
    trainer = lightning.Trainer(
        max_epochs=config.epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=config.strategy,
        plugins=[*processes(config), *precision(config), TwoGenerations()],
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,  # the callback above does it
        enable_progress_bar=os.isatty(2),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # lhotse's sampler shares the cuts out itself
        reload_dataloaders_every_n_epochs=1,  # each epoch has an order of its own
        default_root_dir=state,
    )
    strategy: Any = trainer.strategy  # of several processes, which has more than its base class
    together = trainer.world_size > 1 and not isinstance(strategy.cluster_environment, LightningEnvironment)
    if together:  # all processes are here already; otherwise the first one starts the others when it fits
        strategy.setup_environment()
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # an attribute of the function
        fresh_state(state, fingerprint)
        newest(state)
        write_json(state / "left_out.json", {"utterances": task.speech.left_out, "dev_without_loss": task.speech.without_loss})
    if together:
        strategy.barrier()
    try:
        trainer.fit(task, ckpt_path=newest(state), weights_only=True)
    except DataError as error:  # of a worker: with the traceback that it had there
        raise DataError(str(error).splitlines()[-1].rpartition("DataError: ")[2]) from error
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not (vanished := _vanished(error, trainer.world_size)):
            raise
        who, fewer = vanished
        cause = f"{who} has vanished ({(str(error) or type(error).__name__).splitlines()[0]})"
        remedy = f"start again, with fewer {fewer} where memory is short: training goes on from its last checkpoint"
        raise TrainingError(f"{cause}; {remedy} ({state})") from error
    if not trainer.is_global_zero:
        return None
    if config.average == "ema":
        weights = {name: tensor.float() for name, tensor in average.weights().items()}
        return Fitted(weights, float(curves.read(state / "curves.csv")[-1]["dev_wer"]))
    weights = kept.mean(config.average)
    return Fitted(weights, dev_wer(task, weights, trainer.strategy.root_device))


def _vanished(error: Exception, processes: int) -> tuple[str, str] | None:
    """Who is no longer there, and what there may be too many of; None where an error says nothing of that."""
    if not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error):
        return "a process that loads data", "train.data_workers"
    # NCCL's errors have a class of their own, gloo's its name.
    if processes > 1 and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
        return f"one of {processes} processes of the training", "train.devices"
    return None


@torch.no_grad()
def dev_wer(task: CtcTraining, weights: dict[str, torch.Tensor], device: torch.device) -> float:
    """The word error rate of these weights on the development split, computed in this process alone."""
    task.model.load_state_dict(weights)
    task.to(device).eval()
    said: dict[str, Recognised] = {}
    for batch in batches(task.speech.manifests["dev"], task.dataset, task.config.batch_s, 2, 0, False, alone=True):
        batch.features_btf, batch.lengths_b = batch.features_btf.to(device), batch.lengths_b.to(device)
        said |= task.recognised(batch)
    return word_error_rate(said.values())


def precision(config: Train) -> list[MixedPrecision]:
    """Lightning's plugin for the precision to train in: that of the configuration, or none where bfloat16 would be slower than float32."""
    gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    if config.precision == "fp16":
        return [MixedPrecision("16-mixed", device, torch.amp.GradScaler(device))]
    if config.precision == "bf16" and bfloat16.is_native():
        return [MixedPrecision("bf16-mixed", device)]
    if config.precision == "bf16":
        print("train.precision=bf16: this processor has no instructions for it; training in float32, which is faster here", flush=True)
    return []


def processes(config: Train) -> list[LightningEnvironment]:
    """Lightning's plugin for who starts the processes: it finds out itself, but for one case.

    A job of one task under Slurm, as Snakemake starts one, gets several GPUs and is to start the processes of its own.

    Raises:
        ConfigError: the configuration wants other GPUs or processes than there are.
    """
    wanted = config.devices * config.nodes
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("train.accelerator=gpu: no GPU is visible on this machine; use train.accelerator=cpu, or run where there is one")
    visible = torch.cuda.device_count()
    if config.devices > visible and config.accelerator != "cpu" and visible:
        raise ConfigError(f"train.devices={config.devices}: {visible} GPUs are visible on this machine; ask for as many at most")
    if TorchElasticEnvironment.detect():
        started, by = int(os.environ["WORLD_SIZE"]), "torchrun"
    elif SLURMEnvironment.detect():
        started, by = int(os.environ["SLURM_NTASKS"]), "Slurm"
        if started == 1 and config.nodes == 1:
            return [LightningEnvironment()]
    else:
        return []
    if started != wanted:
        asked = f"train.devices={config.devices} on train.nodes={config.nodes} are {wanted}"
        raise ConfigError(f"{by} started {started} processes, and {asked}; make them equal")
    return []
