"""Train a Conformer; a run that was interrupted or killed goes on where its last checkpoint was written, in the middle of an epoch too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from pathlib import Path

import lightning

from earshot import curves
from earshot.config import Features, TrainStage
from earshot.data import Utterances
from earshot.errors import ArtifactError
from earshot.features import FrontEnd
from earshot.files import read_json, sha256, write_json
from earshot.live_run import LiveRun
from earshot.model import Conformer, checkpoint
from earshot.provenance import provenance
from earshot.stages import stage
from earshot.tokenizer import Tokenizer, read_pieces
from earshot.train import CtcTraining, Memory, fit, survey

# How a training runs, not what it computes: with other values it goes on all the same.
RUNTIME = ("accelerator", "devices", "nodes", "strategy", "data_workers", "checkpoint_every_s")


def start_weights(model: Conformer, model_dir: Path, fresh_output: bool, pieces: list[str], front_end: FrontEnd) -> None:
    """Fine-tuning: put the weights of another model directory into `model`; with `fresh_output` all but those of the output layer."""
    other = checkpoint.load(model_dir)
    if other.pieces != pieces and not fresh_output:
        raise ArtifactError(
            f"{model_dir}: its tokenizer is another one ({len(other.pieces)} pieces, here {len(pieces)}); train with that one, "
            "or let the output layer start anew, train.fresh_output=true"
        )
    if signal_processing(other.front_end.config) != signal_processing(front_end.config):
        raise ArtifactError(f"{model_dir}: its front end is another one; train with the features= that it was trained with")
    weights = other.model.state_dict()
    if fresh_output:
        weights |= {f"output.{name}": tensor for name, tensor in model.output.state_dict().items()}
    checkpoint.load_weights(model, weights, model_dir)


def signal_processing(features: Features) -> Features:
    """The settings without those of how and where features are computed."""
    return dataclasses.replace(features, stored=True, shard_utterances=1, jobs=1)


@stage("train")
def main(cfg: TrainStage) -> None:
    features_dir, tokenizer_dir, out = Path(cfg.features_dir), Path(cfg.tokenizer_dir), Path(cfg.out)
    manifests = {split: features_dir / f"{split}.cuts.jsonl.gz" for split in ("train", "dev")}
    front_end, tokenizer = FrontEnd.load(features_dir / "front_end.json"), Tokenizer(tokenizer_dir / "tokenizer.model")
    pieces = read_pieces(tokenizer_dir / "tokenizer.pieces")
    if pieces != tokenizer.pieces:
        raise ArtifactError(f"{tokenizer_dir}: tokenizer.pieces and tokenizer.model do not belong together; run the tokenizer step again")
    lightning.seed_everything(cfg.train.seed, verbose=False)
    model = Conformer(cfg.model, front_end.n_mels, len(pieces))
    if cfg.train.checkpoint:
        start_weights(model, Path(cfg.train.checkpoint), cfg.train.fresh_output, pieces, front_end)
    speech = survey(manifests, front_end, tokenizer, model, cfg.train)

    config = {key: dataclasses.asdict(getattr(cfg, key)) for key in ("model", "train")}
    computed = {**config, "train": {key: value for key, value in config["train"].items() if key not in RUNTIME}}
    computed["train"]["accumulate"] *= cfg.train.devices * cfg.train.nodes  # batches in a step: the same on more GPUs with fewer at each
    fingerprint = {
        "config": hashlib.sha256(json.dumps(computed, sort_keys=True).encode()).hexdigest(),
        **{split: sha256(path) for split, path in manifests.items()},
        "front_end": sha256(features_dir / "front_end.json"),
        "pieces": sha256(tokenizer_dir / "tokenizer.pieces"),
    }
    origin = {**provenance(), "seed": str(cfg.train.seed), **{f"{name}_sha256": digest for name, digest in fingerprint.items()}}
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f}M parameters, {speech.train_s / 3600:.2f} hours of speech", flush=True)

    started, state = time.monotonic(), out / "state"
    task = CtcTraining(model, cfg.train, speech, Utterances(front_end, tokenizer), Memory(state / "memory.json", front_end), origin)
    with LiveRun(cfg.tracking, cfg.experiment_name, out.name, config) as live:
        fitted = fit(task, state, fingerprint, live.log)
    if fitted is None:  # the first process writes
        return
    checkpoint.save(out, fitted.weights, config, features_dir / "front_end.json", tokenizer_dir / "tokenizer.pieces")
    shutil.copyfile(state / "curves.csv", out / "curves.csv")
    rows = curves.read(out / "curves.csv")
    write_json(
        out / "metrics.json",
        {
            "parameters": parameters,
            "epochs": len(rows),
            "train_hours": speech.train_s / 3600,
            "left_out": len(speech.left_out),
            "dev_wer": fitted.dev_wer,
            "dev_loss": float(rows[-1]["dev_loss"]),
            "training_s": sum(float(row["epoch_s"]) for row in rows),
            "last_session_s": time.monotonic() - started,
            "throughput": read_json(state / "throughput.json"),
            "provenance": origin,
        },
    )


if __name__ == "__main__":
    main()
