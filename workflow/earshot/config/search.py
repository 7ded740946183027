"""Groups and stages of the search for a mixed-precision scheme: how sensitive the parts of a network are, and what is made of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from earshot.config.fields import Checked, bounded, one_of
from earshot.config.models import NpuForm
from earshot.config.programs import Budget, Calib, Decode, Quant, Window
from earshot.errors import ConfigError

BUILDING = ("greedy", "joint")  # methods that build programs
OBJECTIVES = ("flash_kib", "pte_bytes", "cycles", "latency_ms", "wer")


@dataclass
class Sensitivity(Checked):
    """What each part of a network, and each kind of operator, is measured with."""

    schemes: list[str] = field(default_factory=lambda: ["int8_pc", "a8w4", "a16w8"])  # choices of quant; those that a family can take
    utterances: int = bounded(12, ge=1)  # of the calibration speech, for loss and noise of the logits
    dev_utterances: int = bounded(12, ge=1)  # of the dev split, for the WER


@dataclass
class Search(Checked):
    """Which scheme each part of the network is given, for the least of the objective within the budget."""

    # none; the sensitivity table alone; the parts in the order of what they save for what they cost; that and more by Optuna's sampler.
    method: str = one_of("none", "none", "sensitivity", "greedy", "joint")
    objective: str = one_of("flash_kib", *OBJECTIVES)
    schemes: list[str] = field(default_factory=lambda: ["int8_pc", "a8w4"])  # choices of quant that a part may have; the first is the base
    calibrations: list[str] = field(default_factory=list)  # choices of calib that the joint search tries beside the variant's own
    rounds: int = bounded(3, ge=1)  # of programs that are built, after the uniform schemes
    batch: int = bounded(2, ge=1)  # programs of a round, built side by side
    trials: int = bounded(80, ge=1)  # of the joint search, compared in PyTorch before anything is built
    dev_utterances: int = bounded(60, ge=1)  # of the dev split, for the WER of candidates
    seed: int = bounded(0, ge=0)


def named(group: type, values: Any, key: str) -> dict[str, Any]:
    """A mapping of names to values of a group as one of names to its objects.

    Raises:
        ConfigError: it is none, or a key, type or value is wrong.
    """
    if values == MISSING:  # the schema, which has no values yet
        return values
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{key}={values!r}: give a mapping of names to values, {key}={{NAME: {{...}}}}")
    try:
        return {name: OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(group), one)) for name, one in values.items()}
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error


@dataclass
class Compared(Checked):
    """What stages that compare mixtures in PyTorch are given."""

    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    schemes: Any = MISSING  # name: values of quant
    calib: Calib = field(default_factory=Calib)
    window: Window = field(default_factory=Window)
    form: NpuForm = field(default_factory=NpuForm)
    decode: Decode = field(default_factory=Decode)
    family: str = one_of("u85", "u85", "u55", "host")
    model_dir: str = MISSING
    corpus_dir: str = MISSING
    out: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        self.schemes = named(Quant, self.schemes, "schemes")


@dataclass
class SensitivityStage(Compared):
    """`out` is a folder: sensitivity.json, sensitivity.csv, sensitivity.svg."""


@dataclass
class SearchStage(Compared):
    """Candidates of a search, compared in PyTorch: `out` is candidates.json; what an interrupted search goes on from lies beside it."""

    search: Search = field(default_factory=Search)
    budget: Budget = field(default_factory=Budget)
    calibrations: Any = MISSING  # name: values of calib; the first is that of the uniform schemes
    table: str = MISSING  # sensitivity.json
    uniform: list[str] = MISSING  # metrics.json of the uniform schemes

    def __post_init__(self) -> None:
        super().__post_init__()
        self.calibrations = named(Calib, self.calibrations, "calibrations")


@dataclass
class ProposeStage(Checked):
    """What is to be built in a round: `out` is round_N.json."""

    search: Search = field(default_factory=Search)
    budget: Budget = field(default_factory=Budget)
    round: int = bounded(0, ge=0)
    calibration: str = MISSING  # choice of calib of the uniform schemes, which are round 0
    candidates: str | None = None  # candidates.json, of later rounds
    measured: list[str] = field(default_factory=list)  # metrics.json of the rounds before
    out: str = MISSING


@dataclass
class SearchResultStage(Checked):
    """The best trial within the budget: `out` is a folder with result.json, trials.csv, and winner.yaml, a file for conf/quant."""

    search: Search = field(default_factory=Search)
    budget: Budget = field(default_factory=Budget)
    id: str = MISSING
    candidates: str = MISSING
    rounds: list[str] = MISSING  # round_N.json
    measured: list[str] = MISSING  # metrics.json of all rounds
    out: str = MISSING


SEARCH_STAGES = {"sensitivity": SensitivityStage, "search": SearchStage, "propose": ProposeStage, "search_result": SearchResultStage}
