"""The same seed gives the same program, bit by bit, in another process where texts hash otherwise."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_recognizer import write_corpus, write_model

WINDOW = ["window.seconds=2", "window.overlap_s=0.5"]
SAME = ("quantized.pt2", "graph.tosa", "model.pte", "golden_output.bin")


def programs(folder: Path, out: Path, target: str, seed: int) -> dict[str, str]:
    """Digests of what the steps from a model to a .pte make, run by their command lines."""
    family = target.partition("_")[0]
    corpus = f"corpus_dir={folder / 'corpus'}"
    quantize = ["quant=int8_pc", "calib.utterances=2", f"family={family}", f"model_dir={folder / 'model'}", corpus, *WINDOW]
    steps = [("quantize", *quantize, f"out={out}"), ("lower", f"target={target}", f"program_dir={out}", f"out={out / 'variant'}")]
    if family != "host":
        steps.insert(1, ("tosa", f"program_dir={out}"))
    for stage, *words in steps:
        command = [sys.executable, "-m", f"earshot.stages.{stage}", *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": str(seed)})
        assert done.returncode == 0, done.stderr
    return {path.relative_to(out): hashlib.sha256(path.read_bytes()).hexdigest() for name in SAME for path in out.rglob(name)}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["host", "u85_256"])
def test_programs_are_the_same_bit_by_bit(tmp_path, target):
    write_model(tmp_path / "model")
    for split in ("train", "dev", "test"):
        write_corpus(tmp_path / "corpus", [2.0, 3.0, 2.5], ["TURN ON", "STOP", "GO"], split)
    one, other = (programs(tmp_path, tmp_path / str(seed), target, seed) for seed in (1, 2))
    assert Path("variant/model.pte") in one
    assert one == other
