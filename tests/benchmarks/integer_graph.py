"""Our executor of integer graphs beside TOSA's reference model: CPU seconds of one thread for a window, and whether the bits are the same.

    python tests/benchmarks/integer_graph.py PROGRAM    a directory of the workflow with graph.tosa and its golden vectors
    python tests/benchmarks/integer_graph.py            a conformer_xs with random weights and a window of 4 s, quantized and lowered first

The windows are the golden input and random input of the whole range. Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from npu_cycles import random_model
from steps import stage

from earshot.lower.tosa import IntegerGraph


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, which other processes do not lengthen as they do the wall clock's, and the result."""
    started = time.process_time()
    result = function()
    return time.process_time() - started, result


def windows(graph: IntegerGraph, folder: Path, count: int) -> list[np.ndarray]:
    (end,), numbers = graph.inputs, np.random.default_rng(0)
    spread = (numbers.integers(end["min"], end["max"], end["shape"], end["dtype"], endpoint=True) for _ in range(count - 1))
    return [np.load(folder / "golden_input.npy"), *spread]


def measure(folder: Path, count: int) -> dict[str, Any]:
    graph = IntegerGraph(folder)
    given = windows(graph, folder, count)
    preparation_s, _ = seconds(lambda: graph.run(given[0]))
    ours = [seconds(lambda x=x: graph.run(x)) for x in given]
    theirs = [seconds(lambda x=x: graph.reference(x)) for x in given]
    equal = [wanted is not None and np.array_equal(*found, *wanted) for (_, found), (_, wanted) in zip(ours, theirs, strict=True)]
    executor_s, reference_s = (sum(each for each, _ in of_all) / count for of_all in (ours, theirs))
    return {
        "reference_s_per_window": round(reference_s, 4),
        "executor_s_per_window": round(executor_s, 4),
        "ratio": round(reference_s / executor_s, 1),
        "windows_compared": count,
        "bit_equal": all(equal),
        "preparation_s": round(preparation_s - executor_s, 2),
    }


def made(work: Path) -> Path:
    """A program directory of random weights, lowered."""
    model_dir, corpus = random_model(work, "conformer_xs", minutes=1.0)
    folder = work / "program"
    stage("quantize", "quant=int8_pc", "calib=minmax64", "calib.utterances=4", "window=4s", "family=u85", f"model_dir={model_dir}",
          f"corpus_dir={corpus}", f"out={folder}")  # fmt: skip
    stage("tosa", f"program_dir={folder}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path, nargs="?", help="program directory; without it, one is made in a temporary folder")
    parser.add_argument("--windows", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(measure(args.program or made(Path(work)), args.windows)))


if __name__ == "__main__":
    main()
