"""Steps of the workflow that benchmarks need: a stage by its command, a synthetic corpus with its features and tokenizer, a lowering,
a table with its picture."""

from __future__ import annotations

import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from earshot.config import CONF_DIR, register, typed
from earshot.features import FrontEnd
from earshot.files import atomic, read_json, write_json
from earshot.model import Conformer, checkpoint
from earshot.tokenizer import read_pieces

CPU_S = "cpu_s.json"


def composed(*words: str) -> Any:
    """The values of files under conf/, chosen and changed by `words` (target=u85_256 window.seconds=3)."""
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        return typed(compose("pipeline", overrides=["~experiment", "+experiment_name=benchmark", *words]))


def stage(name: str, *arguments: str) -> float:
    """Run a stage as the workflow does; its output goes to stderr. Returns the CPU seconds that it took, all of its processes together."""
    process = subprocess.Popen([sys.executable, "-m", f"earshot.stages.{name}", *arguments], stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return round(used.ru_utime + used.ru_stime, 1)


def corpus_steps(work: Path, minutes: float, vocab_size: int) -> tuple[Path, Path, Path]:
    """Corpus, features and tokenizer directories of a synthetic corpus; a step that is done is left."""
    corpus, features, tokenizer = work / "corpus", work / "features", work / "tokenizer"
    if not (corpus / "summary.json").exists():
        parts = [f"corpus.{split}_minutes={minutes / part:g}" for split, part in (("train", 1), ("dev", 30), ("test", 15))]
        stage("corpus", *parts, f"out={corpus}")
    if not (features / "train.cuts.jsonl.gz").exists():
        stage("features", f"corpus_dir={corpus}", f"out={features}")
    if not (tokenizer / "tokenizer.json").exists():
        stage("tokenizer", f"tokenizer.vocab_size={vocab_size}", f"corpus_dir={corpus}", f"out={tokenizer}")
    return corpus, features, tokenizer


def untrained(model_dir: Path, name: str, front_end: Path, pieces: Path) -> None:
    """Write a model directory with weights as they are before training, of the size that a file of conf/model says."""
    config = composed(f"model={name}").model
    torch.manual_seed(0)
    network = Conformer(config, FrontEnd.load(front_end).n_mels, len(read_pieces(pieces)))
    checkpoint.save(model_dir, network.state_dict(), {"model": dataclasses.asdict(config)}, front_end, pieces)


def lowered(folder: Path, target: str, model_dir: Path, corpus: Path, *words: str) -> dict[str, Any]:
    """lower.json of a model for a target, in `folder`/`target`; its program and integer graph are in `folder`. A step that is done is left.

    `words` are for the quantize stage. What each step took is in cpu_s.json beside what it made.
    """
    out = folder / target
    cpu_s: dict[str, float] = read_json(folder / CPU_S)["cpu_s"] if (folder / CPU_S).exists() else {}
    if not (folder / "quantize.json").exists():
        family = composed(f"target={target}").target.family
        inputs = f"model_dir={model_dir}", f"corpus_dir={corpus}"
        cpu_s["quantize"] = stage("quantize", *words, f"family={family}", *inputs, f"out={folder}")
    if not (folder / "graph.json").exists():
        cpu_s["tosa"] = stage("tosa", f"program_dir={folder}")
    if not (out / "lower.json").exists():
        cpu_s[f"lower {target}"] = stage("lower", f"target={target}", f"program_dir={folder}", f"out={out}")
    write_json(folder / CPU_S, {"cpu_s": cpu_s})
    return read_json(out / "lower.json")


def write_table(work: Path, name: str, table: list[dict[str, Any]], picture: str) -> None:
    """Write NAME.csv, a line for each entry of `table`, and NAME.svg."""
    with atomic(work / f"{name}.csv") as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, table[0])
        writer.writeheader()
        writer.writerows(table)
    with atomic(work / f"{name}.svg") as temporary:
        temporary.write_text(picture)
