"""The Slurm of the script beside this file, as an object of tests."""

from __future__ import annotations

import functools
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import ROOT, command

SCRIPT = Path(__file__).with_name("slurm.sh")
PROFILE = ROOT / "workflow" / "profiles" / "slurm"
# That of tests/running.py, with names short enough for Slurm's plugin.
TINY = [
    "corpus.train_minutes=1 corpus.test_minutes=0.3 corpus.train_voices=6",
    "tokenizer.vocab_size=64 model.dim=16 model.layers=1 model.subsampling_channels=[4,4] train.epochs=2",
    "calib.utterances=4 evaluation.reference_utterances=1 evaluation.timing_utterances=2",
]
TWO_PROCESSES = "train.devices=2 train.accelerator=cpu"
# Every scheme of conf/quant/ but the demo's, which .ci/run runs as they are; for each family of targets, and with a table of sensitivity.
SWEEP = [
    "quant=int8_uint8_io,a8w4 window=4s target=u85_256 search=sensitivity sensitivity=quick",
    "quant=int8_float_out,mixed window=4s target=u55_256",
    "quant=int8_pc_qat,a8w4_qat window=4s target=u55_256 quant.qat.steps=2 quant.qat.period=2 quant.qat.batch=2 quant.qat.dev_utterances=2",
    "quant=bf16,xnnpack_int8,mixed_host window=4s target=host",
]
CORES = 8  # of the node, as the script declares it
DAEMONS = {"slurmctld", "slurmd"}
# Without accounting Slurm's own queue says how jobs ended; and the jobs of tests are short.
POLLING = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3"]
HEED = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # of Ctrl-C, which the background of a shell ignores


@dataclass(frozen=True)
class Job:
    """What Slurm says of a job: megabytes, minutes, cores and GPUs that it asked for."""

    id: int
    rule: str
    state: str
    mem_mb: int
    minutes: int
    tasks: int
    cores: int
    gpus: int


@dataclass
class Slurm:
    folder: Path

    def start(self) -> None:
        done = self._call("start")
        if done.returncode == 77:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        self._call("stop")

    def begin(
        self, directory: Path, *arguments: str, profile: Path = PROFILE, environment: dict[str, str] | None = None, **config: object
    ) -> subprocess.Popen[str]:
        """`snakemake` with the project's profile, or another."""
        words = command(directory, "--workflow-profile", str(profile), *POLLING, *arguments, tiny=TINY, **config)
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(words, env=environment, preexec_fn=HEED, **streams)

    def run(self, directory: Path, *arguments: str, **config: object) -> tuple[str, int]:
        """What it printed, and its exit status."""
        process = self.begin(directory, *arguments, **config)
        output, _ = process.communicate()
        return output, process.returncode

    def jobs(self, directory: Path) -> list[Job]:
        """All jobs of the workflow in this folder, in their order."""
        listing = subprocess.run(["scontrol", "show", "jobs", "--oneliner"], capture_output=True, text=True, check=True).stdout
        found = [_job(line) for line in listing.splitlines() if f" WorkDir={directory} " in line]
        return sorted(found, key=lambda job: job.id)

    def _call(self, word: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(SCRIPT), word, str(self.folder)], capture_output=True, text=True, timeout=800)


def _job(line: str) -> Job:
    values = dict(word.partition("=")[::2] for word in line.split())
    hours, minutes, _ = values["TimeLimit"].rpartition("-")[2].split(":")
    days = int(values["TimeLimit"].rpartition("-")[0] or 0)
    return Job(
        id=int(values["JobId"]),
        rule=values["Comment"].removeprefix("rule_").partition("_wildcards_")[0],
        state=values["JobState"],
        mem_mb=int(values["MinMemoryNode"][:-1]) * {"M": 1, "G": 1024}[values["MinMemoryNode"][-1]],
        minutes=(days * 24 + int(hours)) * 60 + int(minutes),
        tasks=int(values["NumTasks"]),
        cores=int(values["NumCPUs"]),
        gpus=int(values.get("TresPerJob", "0").rpartition(":")[2]),  # gres:gpu:2
    )


def daemons() -> set[tuple[int, str]]:
    """Numbers and names of the processes of Slurm on this machine."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = path.read_text().strip()
        except OSError:  # it has ended
            continue
        if name in {*DAEMONS, "slurmstepd", "munged"}:
            found.add((int(path.parent.name), name))
    return found
