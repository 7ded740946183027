"""The configuration of each stage: the groups that it takes, and its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from earshot.config.data import Features, Tokenizer
from earshot.config.exporting import Export, ExportModelStage
from earshot.config.fields import Checked, check_checksum, one_of
from earshot.config.models import Imported, Model, NpuForm, Train
from earshot.config.programs import Budget, Calib, Decode, Evaluation, Parity, Quant, Target, Tracking, Window
from earshot.config.search import SEARCH_STAGES, Search, Sensitivity


@dataclass
class CorpusStage(Checked):
    corpus: Any = MISSING
    out: str = MISSING


@dataclass
class FeaturesStage(Checked):
    features: Features = field(default_factory=Features)
    corpus_dir: str = MISSING
    out: str = MISSING


@dataclass
class TokenizerStage(Checked):
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    corpus_dir: str = MISSING
    out: str = MISSING


@dataclass
class TrainStage(Checked):
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    tracking: Tracking = field(default_factory=Tracking)
    experiment_name: str = "earshot"
    features_dir: str = MISSING
    tokenizer_dir: str = MISSING
    out: str = MISSING


@dataclass
class ImportCheckpointStage(Checked):
    imported: Imported = field(default_factory=Imported)
    features: Features = field(default_factory=Features)
    out: str = MISSING  # the model directory


@dataclass
class QuantizeStage(Checked):
    quant: Quant = field(default_factory=Quant)
    calib: Calib = field(default_factory=Calib)
    window: Window = field(default_factory=Window)
    form: NpuForm = field(default_factory=NpuForm)
    family: str = one_of("u85", "u85", "u55", "host")
    model_dir: str = MISSING
    corpus_dir: str = MISSING
    out: str = MISSING


@dataclass
class TosaStage(Checked):
    program_dir: str = MISSING  # a quantized program of an NPU family; the graph is written beside it


@dataclass
class LanguageModelStage(Checked):
    name: str = MISSING  # one of those that can be downloaded
    mirror: str = "https://www.openslr.org/resources"
    checksum: str | None = None  # of a mirror's file that is not the official one: sha256:HEX or md5:HEX
    out: str = MISSING  # the file, .arpa.gz

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checksum:
            check_checksum("checksum", self.checksum)


@dataclass
class LexiconStage(Checked):
    lm: str = MISSING  # ARPA file, also .gz, whose words are spelled
    tokenizer_model: str = MISSING  # that the network was trained with
    out: str = MISSING


@dataclass
class LowerStage(Checked):
    target: Target = field(default_factory=Target)
    program_dir: str = MISSING
    out: str = MISSING


@dataclass
class EvaluateStage(Checked):
    """What is evaluated: a model directory, a program directory (with its integer graph if it has one), or a host variant's directory."""

    decode: Decode = field(default_factory=Decode)
    evaluation: Evaluation = field(default_factory=Evaluation)
    window: Window = field(default_factory=Window)
    kind: str = one_of("variant", "float", "program", "variant")
    subject: str = MISSING  # the directory to evaluate
    corpus_dir: str = MISSING
    split: str = one_of("test", "train", "dev", "test")
    out: str = MISSING


@dataclass
class ParityStage(Checked):
    parity: Parity = field(default_factory=Parity)
    window: Window = field(default_factory=Window)
    model_dir: str = MISSING
    program_dir: str = MISSING  # with the integer graph, where the program is for an NPU
    variant_dir: str | None = None  # of the host, with the .pte that was made of the program
    corpus_dir: str = MISSING
    split: str = one_of("dev", "train", "dev", "test")
    float_json: str | None = None  # evaluations: the word error rates beside the figures of this stage
    program_json: str | None = None
    variant_json: str | None = None
    out: str = MISSING  # parity.json, with parity.csv and parity.svg beside it


@dataclass
class MetricsStage(Checked):
    """One metrics.json of a variant out of its evaluations and its lowering.

    `choices` and `config` are mappings, or paths of YAML or JSON files.
    """

    variant: str = MISSING  # MODEL/SCHEME/TARGET, the ids
    corpus_id: str = MISSING
    split: str = one_of("test", "train", "dev", "test")
    choices: Any = MISSING  # group: choice
    config: Any = field(default=MISSING, metadata={"text": True})  # group: resolved values
    lower_json: str = MISSING
    float_json: str | None = None
    program_json: str | None = None
    variant_json: str | None = None  # of a variant of the host; those of an NPU are evaluated with their program, as its integer graph
    parity_json: str | None = None
    out: str = MISSING


@dataclass
class TrackStage(Checked):
    tracking: Tracking = field(default_factory=Tracking)
    experiment_name: str = "earshot"
    results: str = MISSING  # folder whose metrics.json files are logged, with the training curves under train/
    variants: list[str] = field(default_factory=list)  # metrics.json files, or .txt files that list them; empty: all under results
    searches: list[str] = field(default_factory=list)  # result.json files of searches: their trials are tagged, the winners among them
    tables: list[str] = field(default_factory=list)  # sensitivity.svg files; as those of searches they are kept with their model's run
    out: str | None = None  # JSON of what was logged


@dataclass
class ReportStage(Checked):
    variants: list[str] = MISSING  # metrics.json files, or .txt files that list them, a path a line
    tables: list[str] = field(default_factory=list)  # sensitivity.svg files, which the page shows
    searches: list[str] = field(default_factory=list)  # result.json files of searches, whose trials it shows
    title: str = "earshot"
    out: str = MISSING  # folder


@dataclass
class VerdictStage(Checked):
    """Fails when a variant of the table failed, after all rows were written."""

    table: str = MISSING  # variants.csv of the report
    searches: list[str] = field(default_factory=list)  # result.json files: a trial may be over budget, a search without a winner may not
    out: str | None = None  # JSON that is written when no variant failed


@dataclass
class TranscribeStage(Checked):
    decode: Decode = field(default_factory=Decode)
    window: Window = field(
        default_factory=Window
    )  # its overlap for longer audio; its length for model.safetensors, as the others have their own
    program: str = MISSING  # model.pte, quantized.pt2 or model.safetensors that the workflow made
    audio: Any = field(default=MISSING, metadata={"text": True})  # one path, or several: a.flac,b.wav or [a.flac,b.wav]
    output: str = one_of("text", "text", "json")  # json: an object a line, with the times of the words and the n-best texts


@dataclass
class Pipeline(Checked):
    """All groups at once: what the Snakefile composes."""

    experiment_name: str = MISSING
    corpus: Any = MISSING
    features: Features = field(default_factory=Features)
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    imported: Imported = field(default_factory=Imported)
    quant: Quant = field(default_factory=Quant)
    calib: Calib = field(default_factory=Calib)
    window: Window = field(default_factory=Window)
    target: Target = field(default_factory=Target)
    decode: Decode = field(default_factory=Decode)
    evaluation: Evaluation = field(default_factory=Evaluation)
    parity: Parity = field(default_factory=Parity)
    tracking: Tracking = field(default_factory=Tracking)
    budget: Budget = field(default_factory=Budget)
    export: Export = field(default_factory=Export)
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    search: Search = field(default_factory=Search)
    sweep: list[str] = field(default_factory=list)  # each in Hydra's multirun grammar; a variant for each point


STAGES = {
    "corpus": CorpusStage,
    "features": FeaturesStage,
    "tokenizer": TokenizerStage,
    "train": TrainStage,
    "import_checkpoint": ImportCheckpointStage,
    "quantize": QuantizeStage,
    "language_model": LanguageModelStage,
    "lexicon": LexiconStage,
    "tosa": TosaStage,
    "lower": LowerStage,
    "evaluate": EvaluateStage,
    "parity": ParityStage,
    "metrics": MetricsStage,
    "track": TrackStage,
    "report": ReportStage,
    "verdict": VerdictStage,
    "transcribe": TranscribeStage,
    "export_model": ExportModelStage,
    **SEARCH_STAGES,
    "pipeline": Pipeline,
}
