"""A tiny workflow that is started, watched and killed; and what of its results is to be the same each time."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from running import command

# Figures of metrics.json that are measurements of time and memory. All others follow from the seed.
MEASURED = {"host", "lowering_s", "lowering_peak_rss_mib"}


class Running:
    """Snakemake with all its jobs as one group of processes."""

    def __init__(self, directory: Path, *arguments: str, environment: Mapping[str, str] | None = None, **config: object) -> None:
        words = command(directory, "--cores", "2", *arguments, **config)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(words, start_new_session=True, env={**os.environ, **(environment or {})}, **streams)

    def began(self, rule: str) -> bool:
        """Wait until a job of this rule begins; False where Snakemake ended without one."""
        return any(line.split()[:2] in (["rule", f"{rule}:"], ["localrule", f"{rule}:"]) for line in self.process.stdout)

    def kill(self) -> None:
        """SIGKILL to all of them at once, as a machine that goes down."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def kill_after(self, rule: str, seconds: float) -> bool:
        """Kill all so many seconds after a job of this rule began; False where none began, or Snakemake had ended by then."""
        if not self.began(rule):
            self.process.wait()
            return False
        threading.Thread(target=self.process.stdout.read, daemon=True).start()  # a full pipe would hold it up
        try:
            self.process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return True


def figures(directory: Path) -> dict[str, Any]:
    """metrics.json of all variants, without what is measured."""
    found = {}
    for path in sorted(directory.glob("results/variants/*/*/*/metrics.json")):
        content = json.loads(path.read_text())
        found[content["variant"]] = {key: value for key, value in content.items() if key not in MEASURED}
    return found


# What follows from the configuration and the seed, bit by bit.
DETERMINISTIC = (
    *("corpus/*/*.jsonl.gz", "features/*/*/*.jsonl.gz", "features/*/*/front_end.json", "features/*/*/golden.npz", "features/**/*.lca"),
    *("tokenizer/*/*", "train/*/model.safetensors", "train/*/config.yaml", "programs/**/*.tosa", "variants/**/*.tosa", "variants/**/*.pte"),
    *("variants/**/golden_*", "variants/**/front_end*", "variants/**/vela_*.csv", "variants/**/cycles_*.csv", "report/operators.csv"),
    *("programs/**/quantized.pt2", "programs/**/evaluation.utterances.csv", "train/**/*.utterances.csv"),
)


def digests(directory: Path) -> dict[str, str]:
    """Digests of all files that are to be the same each time, by their paths under results/.

    What a killed job was writing lies there still, under a hidden name that nothing reads.
    """
    results = directory / "results"
    paths = {path.relative_to(results) for pattern in DETERMINISTIC for path in results.glob(pattern) if path.is_file()}
    whole = sorted(path for path in paths if not any(part.startswith(".") for part in path.parts))
    return {str(path): hashlib.sha256((results / path).read_bytes()).hexdigest() for path in whole}
