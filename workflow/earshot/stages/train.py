"""Train a Conformer; a run that was interrupted or killed goes on after its last whole epoch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from pathlib import Path

import lightning
import torch

from earshot import curves
from earshot.config import TrainStage
from earshot.corpus.manifest import load_cuts
from earshot.data import Utterances
from earshot.errors import ArtifactError, ConfigError, DataError
from earshot.features import FrontEnd
from earshot.files import sha256, write_json
from earshot.live_run import LiveRun
from earshot.model import Conformer, checkpoint
from earshot.resuming import fresh_state
from earshot.stages import stage
from earshot.tokenizer import Tokenizer, read_pieces
from earshot.train import CtcTraining, fit


def start_weights(model: Conformer, model_dir: Path, pieces: list[str]) -> None:
    """Fine-tuning: put the weights of another model directory into `model`."""
    other = checkpoint.load(model_dir)
    if other.pieces != pieces:
        raise ArtifactError(
            f"{model_dir}: its tokenizer is another one ({len(other.pieces)} pieces, here {len(pieces)}); train with that one"
        )
    checkpoint.load_weights(model, other.model.state_dict(), model_dir)


@stage("train")
def main(cfg: TrainStage) -> None:
    if cfg.train.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("train.accelerator=gpu: no GPU is visible on this machine; use train.accelerator=cpu, or run where there is one")
    features_dir, tokenizer_dir, out = Path(cfg.features_dir), Path(cfg.tokenizer_dir), Path(cfg.out)
    manifests = {split: features_dir / f"{split}.cuts.jsonl.gz" for split in ("train", "dev")}
    front_end, tokenizer = FrontEnd.load(features_dir / "front_end.json"), Tokenizer(tokenizer_dir / "tokenizer.model")
    pieces = read_pieces(tokenizer_dir / "tokenizer.pieces")
    if pieces != tokenizer.pieces:
        raise ArtifactError(f"{tokenizer_dir}: tokenizer.pieces and tokenizer.model do not belong together; run the tokenizer step again")
    train_s, longest_s = 0.0, 0.0
    for cut in load_cuts(manifests["train"]):
        train_s, longest_s = train_s + cut.duration, max(longest_s, cut.duration)
    if longest_s > cfg.train.batch_s:
        remedy = "raise it, or lower corpus.max_duration_s"
        raise DataError(f"train.batch_s={cfg.train.batch_s}: the longest utterance has {longest_s:.1f} s; {remedy}")
    lightning.seed_everything(cfg.train.seed, verbose=False)
    model = Conformer(cfg.model, front_end.n_mels, len(pieces))
    if cfg.train.checkpoint:
        start_weights(model, Path(cfg.train.checkpoint), pieces)

    config = {key: dataclasses.asdict(getattr(cfg, key)) for key in ("model", "train")}
    fingerprint = {
        "config": hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
        **{split: sha256(path) for split, path in manifests.items()},
        "pieces": sha256(tokenizer_dir / "tokenizer.pieces"),
    }
    fresh_state(out / "state", fingerprint)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f}M parameters, {train_s / 3600:.2f} hours of speech", flush=True)

    started = time.monotonic()
    task = CtcTraining(model, cfg.train, train_s, Utterances(front_end, tokenizer), manifests)
    with LiveRun(cfg.tracking, cfg.experiment_name, out.name, config) as live:
        weights = fit(task, out / "state", live.log)
    checkpoint.save(out, weights, config, features_dir / "front_end.json", tokenizer_dir / "tokenizer.pieces")
    shutil.copyfile(out / "state" / "curves.csv", out / "curves.csv")
    rows = curves.read(out / "curves.csv")
    write_json(
        out / "metrics.json",
        {
            "parameters": parameters,
            "epochs": len(rows),
            "train_hours": train_s / 3600,
            "dev_wer": float(rows[-1]["dev_wer"]),
            "dev_loss": float(rows[-1]["dev_loss"]),
            "training_s": sum(float(row["epoch_s"]) for row in rows),
            "last_session_s": time.monotonic() - started,
        },
    )


if __name__ == "__main__":
    main()
