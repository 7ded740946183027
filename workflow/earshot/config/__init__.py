"""Every configuration value of earshot: its type, unit, bounds and meaning.

The YAML files under conf/ give values to these dataclasses. Hydra composes them; `typed` turns the composed tree into objects and checks
the bounds, so that a wrong key, type or value is refused before any work is done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from earshot.config.data import Corpus, Features, LibriSpeech, Synth, Tokenizer
from earshot.config.exporting import Export, ExportModelStage
from earshot.config.fields import SAMPLE_RATE_HZ
from earshot.config.models import Imported, Model, NpuForm, Train
from earshot.config.programs import (
    Budget,
    Calib,
    CalibPart,
    Decode,
    Evaluation,
    Parity,
    Part,
    Precision,
    Qat,
    Quant,
    Ranges,
    Target,
    Tracking,
    Window,
    check_left_context,
    check_qat,
)
from earshot.config.search import ProposeStage, Search, SearchResultStage, SearchStage, Sensitivity, SensitivityStage
from earshot.config.stages import (
    STAGES,
    CorpusStage,
    EvaluateStage,
    FeaturesStage,
    ImportCheckpointStage,
    LanguageModelStage,
    LexiconStage,
    LowerStage,
    MetricsStage,
    ParityStage,
    Pipeline,
    QuantizeStage,
    ReportStage,
    TokenizerStage,
    TosaStage,
    TrackStage,
    TrainStage,
    TranscribeStage,
    VerdictStage,
)
from earshot.errors import ConfigError
from earshot.hydra_words import readable

__all__ = [
    "CONF_DIR",
    "SAMPLE_RATE_HZ",
    "STAGES",
    "Budget",
    "Calib",
    "CalibPart",
    "Corpus",
    "CorpusStage",
    "Decode",
    "EvaluateStage",
    "Evaluation",
    "Export",
    "ExportModelStage",
    "Features",
    "FeaturesStage",
    "ImportCheckpointStage",
    "Imported",
    "LanguageModelStage",
    "LexiconStage",
    "LibriSpeech",
    "LowerStage",
    "MetricsStage",
    "Model",
    "NpuForm",
    "Parity",
    "ParityStage",
    "Part",
    "Pipeline",
    "Precision",
    "ProposeStage",
    "Qat",
    "Quant",
    "QuantizeStage",
    "Ranges",
    "ReportStage",
    "Search",
    "SearchResultStage",
    "SearchStage",
    "Sensitivity",
    "SensitivityStage",
    "Synth",
    "Target",
    "Tokenizer",
    "TokenizerStage",
    "TosaStage",
    "TrackStage",
    "Tracking",
    "Train",
    "TrainStage",
    "TranscribeStage",
    "VerdictStage",
    "Window",
    "check_left_context",
    "check_qat",
    "register",
    "typed",
]

CONF_DIR = Path(__file__).resolve().parents[3] / "conf"


def register() -> None:
    """Make the dataclasses known to Hydra, as group `schema`."""
    store = ConfigStore.instance()
    store.store(group="schema/corpus", name="synth", node=Synth)
    store.store(group="schema/corpus", name="librispeech", node=LibriSpeech)
    for name, node in STAGES.items():
        store.store(group="schema", name=name, node=node, package="_global_")


def typed(cfg: DictConfig) -> Any:
    """The dataclass objects of a composed configuration, bounds checked.

    Raises:
        ConfigError: a value is missing, of the wrong type or out of bounds.
    """
    try:
        return OmegaConf.to_object(cfg)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: no value given; add {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        raise ConfigError(readable(error)) from error
