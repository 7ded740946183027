"""Steps of the workflow that benchmarks need: a stage by its command, and a synthetic corpus with its features and tokenizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def stage(name: str, *arguments: str) -> None:
    """Run a stage as the workflow does; its output goes to stderr."""
    subprocess.run([sys.executable, "-m", f"earshot.stages.{name}", *arguments], check=True, stdout=sys.stderr)


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
