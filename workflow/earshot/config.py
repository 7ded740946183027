"""Every configuration value of earshot: its type, unit, bounds and meaning.

The YAML files under conf/ give values to these dataclasses. Hydra composes them; `typed` turns the composed tree into objects and checks
the bounds, so that a wrong key, type or value is refused before any work is done.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from earshot.errors import ConfigError

CONF_DIR = Path(__file__).resolve().parents[2] / "conf"
SAMPLE_RATE_HZ = 16_000


def bounded(default: Any, *, ge: float = -math.inf, gt: float = -math.inf, le: float = math.inf, lt: float = math.inf) -> Any:
    """A number with bounds: `ge` <= value <= `le`, `gt` < value < `lt`."""
    return field(default=default, metadata={"ge": ge, "gt": gt, "le": le, "lt": lt})


def one_of(default: str, *options: str) -> Any:
    """A word out of a closed set."""
    return field(default=default, metadata={"options": options})


@dataclass
class Checked:
    """Base of all groups: checks the bounds that the fields declare."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, rule = getattr(self, f.name), f.metadata
            if "options" in rule and value not in rule["options"]:
                raise ConfigError(f"{type(self).__name__}.{f.name}={value!r}: choose one of {', '.join(rule['options'])}")
            if "ge" in rule and value is not None:
                broken = [
                    text
                    for bad, text in (
                        (value < rule["ge"], f"must be at least {rule['ge']}"),
                        (value <= rule["gt"], f"must be greater than {rule['gt']}"),
                        (value > rule["le"], f"must be at most {rule['le']}"),
                        (value >= rule["lt"], f"must be less than {rule['lt']}"),
                    )
                    if bad
                ]
                if broken:
                    raise ConfigError(f"{type(self).__name__}.{f.name}={value}: {broken[0]}")


# ---------------------------------------------------------------- corpus


@dataclass
class Corpus(Checked):
    kind: str = one_of("synth", "synth", "librispeech")
    on_bad: str = one_of("fail", "fail", "skip")  # what to do with an utterance that cannot be used; listed in bad.json either way
    min_duration_s: float = bounded(0.3, ge=0.0)
    max_duration_s: float = bounded(40.0, gt=0.0)


@dataclass
class Synth(Corpus):
    """Commands and numbers spoken by espeak-ng, laid out as LibriSpeech is."""

    kind: str = one_of("synth", "synth")
    train_minutes: float = bounded(100.0, gt=0.0)
    dev_minutes: float = bounded(3.0, gt=0.0)
    test_minutes: float = bounded(6.0, gt=0.0)
    train_voices: int = bounded(180, ge=1)
    dev_voices: int = bounded(6, ge=1)
    test_voices: int = bounded(8, ge=1)
    seed: int = bounded(0, ge=0)
    noise_snr_db: float | None = 30.0  # median signal-to-noise ratio of added noise; null for none
    reverb_s: float | None = bounded(0.1, ge=0.0)  # longest reverberation time (RT60) of the simulated rooms; null for none
    jobs: int = bounded(2, ge=1)


@dataclass
class LibriSpeech(Corpus):
    kind: str = one_of("librispeech", "librispeech")
    root: str = MISSING  # folder that holds train-clean-5/, dev-clean/ ... (or is to hold them)
    train_subsets: list[str] = MISSING
    dev_subsets: list[str] = MISSING
    test_subsets: list[str] = MISSING
    download: bool = True  # fetch the subsets that root lacks
    mirror: str = "https://www.openslr.org/resources"
    # Of a mirror's archives that are not the official ones: +corpus.checksums.SUBSET=sha256:HEX (or md5:HEX).
    checksums: dict[str, str] = field(default_factory=dict)
    jobs: int = bounded(2, ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for subset, checksum in self.checksums.items():
            algorithm, _, digest = checksum.partition(":")
            if len(digest) != {"sha256": 64, "md5": 32}.get(algorithm):
                raise ConfigError(f"LibriSpeech.checksums: {subset}: {checksum!r} is not sha256:HEX or md5:HEX")


# ---------------------------------------------------------------- features, tokenizer


@dataclass
class Features(Checked):
    """Log-mel front end; lengths in samples at SAMPLE_RATE_HZ."""

    n_mels: int = bounded(80, ge=8, le=256)
    win_length: int = bounded(400, ge=16)
    hop_length: int = bounded(160, ge=16)
    n_fft: int = bounded(512, ge=16)
    f_min_hz: float = bounded(20.0, ge=0.0)
    f_max_hz: float = bounded(7600.0, gt=0.0, le=SAMPLE_RATE_HZ / 2)
    log_floor: float = bounded(1e-6, gt=0.0)  # keeps the logarithm of the mel energies finite, as floor_by says
    floor_by: str = one_of("maximum", "maximum", "sum")  # energies below log_floor are raised to it, or it is added to all of them
    shard_utterances: int = bounded(1000, ge=1)
    jobs: int = bounded(2, ge=1)


@dataclass
class Tokenizer(Checked):
    vocab_size: int = bounded(128, ge=8, le=8192)
    model_type: str = one_of("unigram", "unigram", "bpe", "char")
    character_coverage: float = bounded(1.0, gt=0.9, le=1.0)


# ---------------------------------------------------------------- model, train


@dataclass
class NpuForm(Checked):
    """How a trained model is written down for an NPU: nothing that is trained."""

    npu_form: bool = True  # rewritten exactly for fewest cycles (8-bit activations); false: quantized as it was trained
    npu_sram_kib: int = bounded(2048, ge=1)  # the subsampling is cut into as many pieces of time as this budget asks for
    npu_chunks: int | None = bounded(None, ge=1)  # that number of pieces; null: what the budget asks for


@dataclass
class Model(NpuForm):
    """A Conformer encoder with a CTC output layer (Gulati et al., 2020)."""

    dim: int = bounded(144, ge=8)
    layers: int = bounded(16, ge=1)
    heads: int = bounded(4, ge=1)
    feed_forward_factor: int = bounded(4, ge=1)
    conv_kernel: int = bounded(31, ge=3)
    subsampling_channels: list[int] = field(default_factory=lambda: [144, 144])  # a convolution for each, which halves the frame rate
    dropout: float = bounded(0.1, ge=0.0, lt=1.0)
    # What attention knows of the order of frames: distances (Transformer-XL); nothing; or the absolute positions of some imported weights.
    positions: str = one_of("relative", "relative", "none", "absolute")

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(channels < 1 for channels in self.subsampling_channels):
            raise ConfigError(f"Model.subsampling_channels={self.subsampling_channels}: each must be at least 1")
        if self.dim % self.heads:
            raise ConfigError(f"Model.heads={self.heads} does not divide Model.dim={self.dim}")
        if self.conv_kernel % 2 == 0:
            raise ConfigError(f"Model.conv_kernel={self.conv_kernel}: must be odd, so that it is centred")


@dataclass
class Train(Checked):
    epochs: int = bounded(160, ge=1)
    batch_s: float = bounded(600.0, gt=0.0)  # seconds of audio in a batch, padding counted
    buckets: int = bounded(10, ge=2)
    optimizer: str = one_of("adamw", "adamw", "muon")  # muon: for the matrices of the blocks; AdamW for the rest
    lr: float = bounded(5e-4, gt=0.0)
    muon_lr: float = bounded(0.02, gt=0.0)
    weight_decay: float = bounded(1e-6, ge=0.0)
    warmup_epochs: float = bounded(2.0, ge=0.0)
    schedule: str = one_of("cosine", "cosine", "linear", "constant")
    grad_clip: float = bounded(5.0, gt=0.0)
    accumulate: int = bounded(1, ge=1)
    precision: str = one_of("fp32", "fp32", "bf16")
    accelerator: str = one_of("auto", "auto", "cpu", "gpu")
    devices: int = bounded(1, ge=1)
    strategy: str = one_of("auto", "auto", "ddp")
    freq_masks: int = bounded(2, ge=0)
    freq_mask_bins: int = bounded(27, ge=1)
    time_masks: int = bounded(5, ge=0)
    time_mask_fraction: float = bounded(0.05, ge=0.0, le=1.0)  # longest mask, as a part of the utterance
    silence_p: float = bounded(0.5, ge=0.0, le=1.0)  # part of the batches whose padding is heard as silence, as a fixed window does
    silence_max_s: float = bounded(3.0, ge=0.0)  # longest silence that such a batch is lengthened by
    intermediate_ctc: float = bounded(0.0, ge=0.0, lt=1.0)  # part of the loss that is that of a quarter, half, three quarters of the blocks
    ema_decay: float = bounded(0.999, ge=0.0, lt=1.0)  # the weights that are kept are an exponential moving average over the steps
    patience_epochs: int | None = None  # stop when the dev loss has not fallen for so long; null: never
    seed: int = bounded(0, ge=0)
    data_workers: int = bounded(0, ge=0)
    checkpoint: str | None = None  # a model directory whose weights training starts from


@dataclass
class Imported(Checked):
    """A checkpoint that others trained, instead of a training here, and what its tensors do not say."""

    checkpoint: str | None = None  # .pt, .pth or .safetensors
    tokenizer: str | None = None  # a SentencePiece .model, or a text file with a piece a line
    statistics: str | None = None  # JSON with mean and std of the features, of each mel bin; null: the network takes them unnormalised
    check: str | None = None  # .npz or .safetensors with features and logits of the original network, to compare with
    blank: int | None = bounded(None, ge=-1)  # the output that is the CTC blank; -1: the last one
    heads: int | None = bounded(None, ge=1)  # only where the tensors do not tell it
    score_scale: str = one_of("auto", "auto", "d_head", "d_model")  # attention scores are divided by its root; auto: as the release does
    half_step_residual: bool = True  # feed-forward modules count half (the paper); false: wholly
    letter_case: str = one_of("upper", "upper", "keep")  # of the pieces: the transcripts of earshot's corpora are in capitals


# ---------------------------------------------------------------- quant, calib, window, target, decode


@dataclass
class Precision(Checked):
    """How numbers are stored: floats, or 4 or 8 bits of a weight and 8 or 16 of an activation."""

    quantize: bool = True
    weight_bits: int = bounded(8, ge=4, le=8)
    activation_bits: int = bounded(8, ge=8, le=16)
    per_channel: bool = True
    dynamic: bool = False  # ranges of activations are found anew in each run, where they enter a linear layer; the others stay floats

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_bits not in (4, 8) or self.activation_bits not in (8, 16):
            raise ConfigError(
                f"{type(self).__name__}.weight_bits={self.weight_bits}, activation_bits={self.activation_bits}: "
                "choose weights of 4 or 8 bits, activations of 8 or 16 bits"
            )


@dataclass
class Part(Precision):
    """The precision of some modules of the exported network, and of all that is in them."""

    modules: str = MISSING  # a pattern as of file names, for names as quantize.json lists them: blocks.0, *.feed_forward?.widen


@dataclass
class Quant(Precision):
    """A scheme: the precision of the network, and of parts of it. `families` names the targets' families that can take the scheme."""

    scheme: str = MISSING
    float_type: str = one_of("float32", "float32", "float16", "bfloat16")  # of a program that is not quantized
    parts: list[Part] = field(default_factory=list)  # the first that has a module decides
    families: list[str] = field(default_factory=lambda: ["u85", "u55", "host"])
    from_program: str | None = None  # a quantized .pt2 to start from: no calibration is done

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.quantize and self.parts:
            raise ConfigError(
                "Quant.parts: of a scheme that quantizes; set Quant.quantize=true, and Part.quantize=false where floats are to stay"
            )
        if self.quantize and self.float_type != "float32":
            raise ConfigError(f"Quant.float_type={self.float_type}: of a program of floats; set Quant.quantize=false, or leave it out")

    @property
    def precisions(self) -> list[Precision]:
        """That of the network first, then those of its parts."""
        return [self, *self.parts]

    @property
    def calibrated(self) -> bool:
        """Whether ranges of activations are observed on speech."""
        return any(precision.quantize and not precision.dynamic for precision in self.precisions)

    def takes_npu_form(self, family: str) -> bool:
        """Whether programs of the scheme may be of the NPU form. With 16-bit activations its square has no table, and integers overflow."""
        bits = max(precision.activation_bits for precision in self.precisions)
        return self.quantize and family != "host" and bits == 8 and self.from_program is None


@dataclass
class Calib(Checked):
    """Training speech that activations are observed on, and how their ranges follow."""

    utterances: int = bounded(64, ge=1)
    seconds: float | None = bounded(None, gt=0.0)  # as many utterances as last so long, instead
    # At random; evenly over the durations; one of each speaker, then a second of each ...; the longest.
    sampling: str = one_of("random", "random", "duration", "speaker", "longest")
    # The range with the least squared error of a histogram; from the smallest to the largest value; those averaged over the utterances; the
    # range that leaves out what lies beyond `percentile` on both sides.
    observer: str = one_of("histogram", "histogram", "minmax", "average", "percentile")
    percentile: float = bounded(99.99, gt=50.0, le=100.0)
    seed: int = bounded(0, ge=0)


@dataclass
class Window(Checked):
    """The fixed length of audio that an exported program takes, and how longer utterances are cut.

    With left context, what the layers computed of the speech before a window is an input of the program, and its overlap is a look-ahead:
    only the next window, which knows what follows, gives the outputs there.
    """

    seconds: float = bounded(10.0, gt=0.0, le=60.0)
    overlap_s: float = bounded(2.0, ge=0.0)
    left_context_s: float = bounded(0.0, ge=0.0, le=60.0)  # 0: each window is computed by itself

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap_s > self.seconds / 2:
            raise ConfigError(f"Window.overlap_s={self.overlap_s}: must be at most half of Window.seconds={self.seconds}")


def check_left_context(window: Window, form: NpuForm, quant: Quant, family: str) -> None:
    """Refuse a cache of left context where a program has no form for it.

    Raises:
        ConfigError: the program is not to be of the NPU form.
    """
    if window.left_context_s and not (form.npu_form and quant.takes_npu_form(family)):
        raise ConfigError(
            f"window.left_context_s={window.left_context_s:g}: a program with a cache is of the NPU form, but quant={quant.scheme} "
            f"for family {family} with model.npu_form={str(form.npu_form).lower()} is not; "
            "take activations of 8 bits, an NPU and model.npu_form=true, or set left_context_s to 0"
        )


@dataclass
class Target(Checked):
    name: str = MISSING
    family: str = one_of("u85", "u85", "u55", "host")  # targets of a family share one quantized program
    accelerator: str | None = None  # Vela's accelerator configuration, e.g. ethos-u85-256
    system_config: str | None = None
    memory_mode: str | None = None
    sram_kib: int | None = bounded(None, ge=1, le=1024 * 1024)  # budget of SRAM: Vela is given it, a program that needs more is over_budget

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.family == "host" and self.sram_kib is not None:
            raise ConfigError(f"Target.sram_kib={self.sram_kib}: a budget is for an NPU's memory; leave it out for family host")


@dataclass
class Decode(Checked):
    method: str = one_of("greedy", "greedy")
    blank_penalty: float = bounded(0.0, ge=0.0)  # subtracted from the blank's logit: fewer deletions, more insertions


@dataclass
class Evaluation(Checked):
    reference_utterances: int = bounded(2, ge=0)  # of the integer graph, compared with TOSA's reference model bit by bit before all are run
    timing_utterances: int = bounded(20, ge=1)
    bootstrap: int = bounded(1000, ge=0)  # draws of utterances for the confidence interval of the WER; 0: none
    seed: int = bounded(0, ge=0)  # of those draws, and of the sample that is timed
    jobs: int = bounded(1, ge=1)  # processes that recognize utterances; changes no result


@dataclass
class Tracking(Checked):
    """MLflow as a sink: where it is, and what is kept there beside the figures."""

    enabled: bool = True
    uri: str = MISSING  # sqlite:///FILE or http://HOST:PORT
    log_pte: bool = False  # keep each variant's model.pte as an artifact
    timeout_s: int = bounded(10, ge=1)  # longest wait for one answer of a server; MLFLOW_HTTP_REQUEST_TIMEOUT overrides it


# ---------------------------------------------------------------- stages: one primary configuration each


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
    out: str = MISSING


@dataclass
class TrackStage(Checked):
    tracking: Tracking = field(default_factory=Tracking)
    experiment_name: str = "earshot"
    results: str = MISSING  # folder whose metrics.json files are logged, with the training curves under train/
    variants: list[str] = field(default_factory=list)  # metrics.json files, or .txt files that list them; empty: all under results
    out: str | None = None  # JSON of what was logged


@dataclass
class ReportStage(Checked):
    variants: list[str] = MISSING  # metrics.json files, or .txt files that list them, a path a line
    title: str = "earshot"
    out: str = MISSING  # folder


@dataclass
class VerdictStage(Checked):
    """Fails when a variant of the table failed, after all rows were written."""

    table: str = MISSING  # variants.csv of the report
    out: str | None = None  # JSON that is written when no variant failed


@dataclass
class TranscribeStage(Checked):
    decode: Decode = field(default_factory=Decode)
    window: Window = field(
        default_factory=Window
    )  # its overlap for longer audio; its length for model.safetensors, as the others have their own
    program: str = MISSING  # model.pte, quantized.pt2 or model.safetensors that the workflow made
    audio: Any = field(default=MISSING, metadata={"text": True})  # one path, or several: a.flac,b.wav or [a.flac,b.wav]


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
    tracking: Tracking = field(default_factory=Tracking)
    sweep: list[str] = field(default_factory=list)  # each in Hydra's multirun grammar; a variant for each point


STAGES = {
    "corpus": CorpusStage,
    "features": FeaturesStage,
    "tokenizer": TokenizerStage,
    "train": TrainStage,
    "import_checkpoint": ImportCheckpointStage,
    "quantize": QuantizeStage,
    "tosa": TosaStage,
    "lower": LowerStage,
    "evaluate": EvaluateStage,
    "metrics": MetricsStage,
    "track": TrackStage,
    "report": ReportStage,
    "verdict": VerdictStage,
    "transcribe": TranscribeStage,
    "pipeline": Pipeline,
}


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
        raise ConfigError(str(error)) from error
