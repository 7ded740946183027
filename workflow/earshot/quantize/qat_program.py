"""A program by quantization-aware training: what the quantize stage runs instead of placing ranges alone."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from earshot import windows
from earshot.config import Qat, QuantizeStage
from earshot.corpus.manifest import load_cuts
from earshot.files import atomic, sha256
from earshot.model import checkpoint
from earshot.model.npu.layers import Normalise
from earshot.quantize import calibrate, fake, program, qat, schemes
from earshot.resuming import fresh_state

STATE, CURVES = "state", "qat.csv"  # under the program directory


def settings(cfg: QuantizeStage) -> Qat:
    """Of a scheme that is trained."""
    assert cfg.quant.qat is not None
    return cfg.quant.qat


def trained(
    cfg: QuantizeStage, recognizer: checkpoint.Recognizer, written: nn.Module, exported: ExportedProgram, calibration: qat.Inputs
) -> tuple[GraphModule, dict[str, Any]]:
    """The converted program of the trained weights, and what quantize.json says of the training.

    `written` is the NPU form, `exported` its program of one window.

    Raises:
        DataError: an utterance of the training split, or its audio, also stands in the dev or test split; or audio cannot be used.
    """
    front_end, frames, state = recognizer.front_end, windows.frames_of(cfg.window, recognizer.front_end), Path(cfg.out) / STATE
    utterances = calibrate.training_split(cfg.corpus_dir)
    calibrate.check_apart(utterances, cfg.corpus_dir)
    fresh_state(state, fingerprint(cfg))
    taught, averaged = graphs(cfg, recognizer, written, exported)
    layout = windows.layout(frames, cfg.window.overlap_s, front_end, recognizer.model.grid)
    dev = qat.Dev.of(recognizer.model, dev_utterances(cfg), layout, front_end, recognizer.pieces)
    config = settings(cfg)
    training = qat.Training(config, recognizer.model, taught, averaged, state)
    for row in training.fit(qat.Speech(utterances, front_end, frames, config.seed), calibration, dev):
        learnt = f"train loss {row['train_loss']:.4f}  " if row["step"] else ""
        print(f"step {row['step']}/{config.steps}  {learnt}dev loss {row['dev_loss']:.4f}  dev WER {row['dev_wer']:.1%}", flush=True)
    with atomic(Path(cfg.out) / CURVES) as temporary:
        shutil.copyfile(state / qat.CURVES, temporary)
    return fake.convert(averaged), {**dataclasses.asdict(config), "utterances": len(utterances), "best_step": training.best["step"]}


def graphs(
    cfg: QuantizeStage, recognizer: checkpoint.Recognizer, written: nn.Module, exported: ExportedProgram
) -> tuple[GraphModule, GraphModule]:
    """The rounded network twice: of batches of windows, which is taught, and of one window, which will have the averaged weights.

    What only computes a norm is no subject of training.
    """
    front_end = recognizer.front_end
    shape = settings(cfg).batch, windows.frames_of(cfg.window, front_end), front_end.n_mels
    batches = program.export(copy.deepcopy(written), written, shape)
    taught, averaged = (
        fake.prepare(one, schemes.quantizer(cfg.quant, cfg.calib, cfg.family, one.graph_module, training=True))
        for one in (batches, exported)
    )
    fake.keep_gradients_finite(taught)
    fixed = tuple(f"{name}." for name, module in written.named_modules() if isinstance(module, Normalise))
    for name, parameter in taught.named_parameters():
        parameter.requires_grad_(not name.startswith(fixed))
    return taught, averaged


def fingerprint(cfg: QuantizeStage) -> dict[str, Any]:
    """What a training depends on."""
    config = {key: dataclasses.asdict(getattr(cfg, key)) for key in ("quant", "calib", "window", "form")}
    return {
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        "family": cfg.family,
        "model": checkpoint.model_digest(cfg.model_dir),
        **{split: sha256(Path(cfg.corpus_dir, f"{split}.cuts.jsonl.gz")) for split in ("train", "dev")},
    }


def dev_utterances(cfg: QuantizeStage) -> list[tuple[str, str]]:
    """Audio and words of utterances of the dev split, drawn by the seed."""
    cuts = sorted(load_cuts(Path(cfg.corpus_dir, "dev.cuts.jsonl.gz")), key=lambda cut: cut.id)
    config = settings(cfg)
    drawn = random.Random(config.seed).sample(cuts, min(config.dev_utterances, len(cuts)))
    return [(cut.recording.sources[0].source, cut.supervisions[0].text) for cut in drawn]
