"""What a step asks a cluster for: memory and time, by the size of its model and the hours of its speech, and more with each attempt.

The figures are straight lines over what `results/benchmarks/*.tsv` has (max_rss, cpu_time) of the demo (1.1 million parameters, 1.8 hours
of speech), of `experiment=pretrained` (1.7 million, windows of 10 s) and of `experiment=local_speech_9h` (10 hours), on two cores: memory a
third above the most that was seen, time that of one core, and a quarter of an hour in which files and imports may be slow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SNAKEMAKE_MB = 500  # a job of a cluster runs Snakemake twice around its command, 190 MB each
MANIFEST = ".cuts.jsonl.gz"
HOURS_PER_MB = 30  # of such a file, of real speech: 24 to 30 were seen, less with sentences as short as the demo's
LIBRISPEECH_HOURS = 1000  # all subsets; how much of it a tree holds is known when it has been read
UNKNOWN_PARAMETERS_M = 10.0  # of a checkpoint that lies elsewhere, in an object store say
DAY = 24 * 60


@dataclass(frozen=True)
class Size:
    """Of what a step works on."""

    parameters_m: float = 0.0  # million
    speech_h: float = 0.0


@dataclass(frozen=True)
class Needs:
    """Megabytes and minutes of a step, whatever its input, and for each unit of it."""

    mem_mb: int
    mem_mb_per_m: int = 0  # each million parameters
    mem_mb_per_h: int = 0  # each hour of speech
    minutes: int = 15
    minutes_per_m: float = 0.0
    minutes_per_h: float = 0.0
    minutes_per_m_h: float = 0.0  # each hour that a million parameters go over

    @property
    def of_speech(self) -> bool:
        """Whether the hours of the input matter."""
        return any((self.mem_mb_per_h, self.minutes_per_h, self.minutes_per_m_h))

    def memory(self, size: Size) -> float:
        """Megabytes of the first attempt."""
        return SNAKEMAKE_MB + self.mem_mb + self.mem_mb_per_m * size.parameters_m + self.mem_mb_per_h * size.speech_h

    def runtime(self, size: Size) -> float:
        """Minutes of the first attempt."""
        of_model = (self.minutes_per_m + self.minutes_per_m_h * size.speech_h) * size.parameters_m
        return self.minutes + of_model + self.minutes_per_h * size.speech_h


# An utterance is 2 KiB of memory as a cut of lhotse, 300 are an hour: 2 MB an hour leave room for a copy. Programs are traced, quantized
# and lowered as graphs, of which several lie in memory: 200 MB for a million parameters.
STEPS = {
    "corpus": Needs(2000, mem_mb_per_h=2, minutes_per_h=0.2),
    "features": Needs(2000, mem_mb_per_h=2, minutes_per_h=0.1),
    "tokenizer": Needs(1000, mem_mb_per_h=2, minutes_per_h=0.05),
    "language_model": Needs(1000, minutes=60),
    "lexicon": Needs(2000, minutes=30),
    "train": Needs(3500, mem_mb_per_m=100, mem_mb_per_h=2, minutes=30, minutes_per_m_h=1.2),  # each process, each epoch
    "import_checkpoint": Needs(1000, mem_mb_per_m=20),
    "evaluate_float": Needs(1200, mem_mb_per_m=50, mem_mb_per_h=2, minutes_per_m_h=1),
    "evaluate_program": Needs(3000, mem_mb_per_m=100, mem_mb_per_h=2, minutes_per_m_h=3),  # judged as tosa's graph is
    "evaluate_variant": Needs(1400, mem_mb_per_m=100, mem_mb_per_h=2, minutes_per_m_h=3),
    "quantize": Needs(1400, mem_mb_per_m=200, mem_mb_per_h=2, minutes_per_m=2),
    "quantize_aware": Needs(4000, mem_mb_per_m=400, mem_mb_per_h=2, minutes_per_m=20),
    # A fork judges tosa's graph, and Vela runs in one; Slurm counts what both share twice. Benchmarks miss it: they look each 30 s.
    "tosa": Needs(3000, mem_mb_per_m=200, minutes_per_m=2),
    "lower": Needs(3000, mem_mb_per_m=200, minutes_per_m=2),
    "parity": Needs(1400, mem_mb_per_m=200, mem_mb_per_h=2, minutes_per_m=2),
    "sensitivity": Needs(3000, mem_mb_per_m=400, mem_mb_per_h=2, minutes_per_m=10),
    "search": Needs(3000, mem_mb_per_m=400, mem_mb_per_h=2, minutes_per_m=10),
    "export_model": Needs(3000, mem_mb_per_m=200, minutes_per_m=2),
    # Not sent to a cluster, but run beside the Snakemake that sends; for `--resources mem_mb=`.
    **dict.fromkeys(("metrics", "propose", "search_result", "verdict"), Needs(500)),
    **dict.fromkeys(("report", "track"), Needs(1000)),
}
WORKER_MB = 700  # a process that loads data for a training: its libraries


@dataclass(frozen=True)
class Request:
    mem_mb: int
    minutes: int


def request(step: str, config: Mapping[str, Any], files: Iterable[tuple[str, float]], attempt: int) -> Request:
    """What an attempt (1 is the first) of a step of a variant asks for.

    `config` holds the variant's groups; `files` are the step's input files with their megabytes, looked at only where they matter.
    """
    needs = STEPS["quantize_aware" if step == "quantize" and config["quant"]["qat"] else step]
    hours = corpus_hours(config["corpus"]) if step == "corpus" else speech_hours(files) if needs.of_speech else 0.0
    size = Size(parameters_m(config), hours)
    mem_mb, minutes = attempt * needs.memory(size), attempt * needs.runtime(size)
    if step == "train":
        train = config["train"]
        mem_mb = train["devices"] * (mem_mb + attempt * WORKER_MB * train["data_workers"])
        minutes = attempt * training_minutes(train, size)
    if step in ("evaluate_float", "evaluate_program"):  # each process has a model of its own
        mem_mb += (config["evaluation"]["jobs"] - 1) * attempt * (needs.mem_mb + needs.mem_mb_per_m * size.parameters_m)
    return Request(math.ceil(mem_mb), math.ceil(minutes))


def training_minutes(train: Mapping[str, Any], size: Size) -> float:
    """Minutes of a training: of all its epochs on CPUs, two days at most, since what its limit ended goes on in the next attempt.

    On GPUs a day: what `librispeech_960` takes one of them (docs/scale.md).
    """
    if train["accelerator"] == "gpu":
        return DAY
    hours = size.speech_h * train["epochs"] / (train["devices"] * train["nodes"])
    return min(STEPS["train"].runtime(Size(size.parameters_m, hours)), 2 * DAY)


def gpus(step: str, config: Mapping[str, Any]) -> int:
    """GPUs of a step: only a training has them, and none where it is to run on the CPU or takes what there is."""
    return config["train"]["devices"] if step == "train" and config["train"]["accelerator"] == "gpu" else 0


def threads(step: str, config: Mapping[str, Any]) -> int:
    """CPU cores of a step on a cluster: one for each of its processes."""
    if step == "train":
        return max(2, config["train"]["devices"] * (1 + config["train"]["data_workers"]))
    if step == "quantize":
        return 2 if config["quant"]["qat"] else 1
    group = {"corpus": "corpus", "features": "features", "evaluate_float": "evaluation", "evaluate_program": "evaluation"}.get(step)
    return config[group]["jobs"] if group else 1


def parameters_m(config: Mapping[str, Any]) -> float:
    """Millions of parameters of a variant's model: of an imported one by its file; of a Conformer the nine tenths that are in its blocks.

    A block of d channels has two feed-forward modules (4 d^2 times their factor), attention with relative positions (5 d^2) and a
    convolution module (3 d^2).
    """
    checkpoint = config["imported"]["checkpoint"]
    if checkpoint:
        path = Path(checkpoint)
        return path.stat().st_size / 4e6 if path.is_file() else UNKNOWN_PARAMETERS_M
    model = config["model"]
    return (4 * model["feed_forward_factor"] + 8) * model["layers"] * model["dim"] ** 2 / 1e6


def corpus_hours(corpus: Mapping[str, Any]) -> float:
    """Hours that a corpus will have, before it is there."""
    splits = [corpus[key] for key in ("train_minutes", "dev_minutes", "test_minutes") if key in corpus]
    return sum(splits) / 60 if splits else LIBRISPEECH_HOURS


def speech_hours(files: Iterable[tuple[str, float]]) -> float:
    """Hours of speech in the manifests among these files."""
    return HOURS_PER_MB * sum(megabytes for path, megabytes in files if path.endswith(MANIFEST))
