"""Snakemake as a user calls it, at a tiny size."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = [
    "corpus.train_minutes=1 corpus.dev_minutes=0.2 corpus.test_minutes=0.3",
    "corpus.train_voices=6 corpus.dev_voices=2 corpus.test_voices=2",
    "tokenizer.vocab_size=64",
    "model.dim=16 model.layers=1 model.heads=2 model.subsampling_channels=[4,4]",
    "train.epochs=2 train.batch_s=20",
    "calib.utterances=4 evaluation.reference_utterances=1 evaluation.timing_utterances=2",
]
SWEEP = "quant=int8_pc window=4s target=host,u85_256"


def command(
    directory: Path,
    *arguments: str,
    overrides: str = "",
    sweep: str = SWEEP,
    tiny: Sequence[str] = TINY,
    root: Path = ROOT,
    **config: object,
) -> list[str]:
    """`snakemake` as a user calls it, in `directory`, with `config` beside; `root` is the checkout."""
    words = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "workflow" / "Snakefile"), "--directory", str(directory)]
    words += [*arguments, "--config", f"overrides={' '.join(tiny)} {overrides}", f"sweep={sweep}"]
    return words + [f"{key}={value}" for key, value in config.items()]


def snakemake(directory: Path, *arguments: str, check: bool = True, root: Path = ROOT, **config: object) -> subprocess.CompletedProcess:
    """Runs it on this machine, to its end, with the code and conf/ of `root`; stdout and stderr together in `.stdout`."""
    words = command(directory, "--cores", "2", *arguments, root=root, **config)
    environment = {**os.environ, "PYTHONPATH": str(root / "workflow")}
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3600, env=environment)
    assert not check or done.returncode == 0, done.stdout
    return done


def jobs(done: subprocess.CompletedProcess) -> set[str]:
    """The rules that a dry run would run."""
    lines = iter(done.stdout.splitlines())
    for line in lines:
        if line.startswith("job "):
            break
    next(lines, None)
    found = set()
    for line in lines:
        words = line.split()
        if len(words) != 2:
            break
        found.add(words[0])
    return found - {"all", "total"}
