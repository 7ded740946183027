"""Groups of a program: precision, calibration, window, target; how it is evaluated, and where that is tracked."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from omegaconf import MISSING

from earshot.config.fields import Checked, bounded, check_checksum, one_of
from earshot.config.models import NpuForm
from earshot.errors import ConfigError


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
class Qat(Checked):
    """Quantization-aware training: the rounded network learns, from speech without its words, to say what the float network says."""

    steps: int = bounded(200, ge=1)
    batch: int = bounded(8, ge=1)  # windows in a step
    lr: float = bounded(1e-4, gt=0.0)
    weight_decay: float = bounded(0.0, ge=0.0)
    warmup: float = bounded(0.05, ge=0.0, lt=1.0)  # part of the steps; then half a cosine to zero
    grad_clip: float = bounded(1.0, gt=0.0)
    temperature: float = bounded(1.0, gt=0.0)  # of the posteriors that are compared
    ema_decay: float = bounded(0.98, ge=0.0, lt=1.0)  # the weights that are kept are an exponential moving average over the steps
    period: int = bounded(50, ge=1)  # steps from one look at the dev split to the next; an interrupted training goes on after the last one
    freeze_after: float = bounded(0.5, ge=0.0, le=1.0)  # ranges of activations are found anew in each period that begins before this part
    dev_utterances: int = bounded(64, ge=1)
    seed: int = bounded(0, ge=0)


@dataclass
class Quant(Precision):
    """A scheme: the precision of the network, and of parts of it. `families` names the targets' families that can take the scheme."""

    scheme: str = MISSING
    float_type: str = one_of("float32", "float32", "float16", "bfloat16")  # of a program that is not quantized
    parts: list[Part] = field(default_factory=list)  # the first that has a module decides
    uint8_io: bool = False  # features go in and logits come out as numbers of 0 to 255; all between stays int8
    families: list[str] = field(default_factory=lambda: ["u85", "u55", "host"])
    from_program: str | None = None  # a quantized .pt2 to start from: no calibration is done
    qat: Qat | None = None  # null: the weights stay as they were trained

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.quantize and self.parts:
            raise ConfigError(
                "Quant.parts: of a scheme that quantizes; set Quant.quantize=true, and Part.quantize=false where floats are to stay"
            )
        if self.quantize and self.float_type != "float32":
            raise ConfigError(f"Quant.float_type={self.float_type}: of a program of floats; set Quant.quantize=false, or leave it out")

        if self.uint8_io and not (self.quantize and self.activation_bits == 8):
            raise ConfigError("Quant.uint8_io=true: of a scheme with activations of 8 bits; set it to false, or quantize with 8 bits")
        if self.uint8_io and not all(part.quantize for part in self.parts):
            raise ConfigError("Quant.uint8_io=true: of a scheme whose logits are integers; set it to false, or quantize all of Quant.parts")

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
class Ranges(Checked):
    """How the range of an activation follows from what it was seen to be."""

    # The range with the least squared error of a histogram; from the smallest to the largest value; those averaged over the utterances; the
    # range that leaves out what lies beyond `percentile` on both sides.
    observer: str = one_of("histogram", "histogram", "minmax", "average", "percentile")
    percentile: float = bounded(99.99, gt=50.0, le=100.0)


@dataclass
class CalibPart(Ranges):
    """Ranges of the activations that some modules make, they and all that is in them."""

    modules: str = MISSING  # a pattern, as of quant.parts


@dataclass
class Calib(Ranges):
    """Training speech that activations are observed on, and how their ranges follow."""

    utterances: int = bounded(64, ge=1)
    seconds: float | None = bounded(None, gt=0.0)  # as many utterances as last so long, instead
    # At random; evenly over the durations; one of each speaker, then a second of each ...; the longest.
    sampling: str = one_of("random", "random", "duration", "speaker", "longest")
    parts: list[CalibPart] = field(default_factory=list)  # the first that has the maker of an activation decides
    # Each weight is rounded to its nearest value; or what one weight of an output loses is made up for by the others, for the inputs that
    # calibration sees (GPTQ).
    weights: str = one_of("nearest", "nearest", "compensated")
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


def check_qat(window: Window, form: NpuForm, quant: Quant, family: str) -> None:
    """Refuse quantization-aware training where it is not possible.

    Raises:
        ConfigError: the program is not to be of the NPU form, or takes a cache.
    """
    if quant.qat is None:
        return
    if not (form.npu_form and quant.takes_npu_form(family)):
        raise ConfigError(
            f"quant={quant.scheme}: quantization-aware training is of the NPU form, but family {family} with activations of "
            f"{quant.activation_bits} bits and model.npu_form={str(form.npu_form).lower()} takes the plain one; "
            "take activations of 8 bits, an NPU and model.npu_form=true, or set quant.qat=null"
        )
    if window.left_context_s:
        raise ConfigError(
            f"window.left_context_s={window.left_context_s:g}: quantization-aware training knows no cache of left context; "
            "set it to 0, or quant.qat=null"
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
class Budget(Checked):
    """Limits to what comes out; nothing is built otherwise for them. Null: none; figures that a variant lacks are above none."""

    max_wer_increase: float | None = bounded(None, ge=0.0)  # of the device's form against the float model, absolute, as a fraction
    sram_kib: float | None = bounded(None, gt=0.0)  # that the NPU's program uses; what Vela is given to lay it out in is target.sram_kib
    flash_kib: float | None = bounded(None, gt=0.0)  # of the NPU's weights and constants
    latency_ms: float | None = bounded(None, gt=0.0)  # of one window: Vela's estimate, or the measured median of the host
    pte_bytes: int | None = bounded(None, ge=1)


@dataclass
class Decode(Checked):
    """Logits to words."""

    method: str = one_of("greedy", "greedy", "beam", "lm")
    blank_penalty: float = bounded(0.0, ge=0.0)  # subtracted from the blank's logit: fewer deletions, more insertions
    nbest: int = bounded(1, ge=1)  # different texts that are told of each utterance
    # Of both beam searches.
    beam_size: int = bounded(50, ge=1)  # hypotheses that are kept after each frame
    beam_threshold: float = bounded(25.0, gt=0.0)  # those whose score (natural log) is so far below the best one's are dropped
    # Of the one with a language model and a lexicon.
    lm: str | None = None  # an n-gram, ARPA (also .gz) or KenLM's binary, or the name of one that the workflow downloads: librispeech_3gram
    lexicon: str | None = None  # a line each: a word, and the pieces that spell it; null: the workflow makes it of an ARPA's words
    lm_weight: float = bounded(1.0, ge=0.0)  # of the log10 probabilities of the language model, beside the natural ones of the network
    word_score: float = 0.0  # added for each word
    mirror: str = "https://www.openslr.org/resources"
    lm_checksum: str | None = None  # of a mirror's file that is not the official one: sha256:HEX or md5:HEX

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "lm" and not self.lm:
            raise ConfigError(
                "decode.lm: decode.method=lm needs a language model, none is given; add decode.lm=FILE, or choose decode=beam"
            )
        most, of = (1, "greedy finds one; choose decode=beam") if self.method == "greedy" else (self.beam_size, "raise decode.beam_size")
        if self.nbest > most:
            raise ConfigError(f"decode.nbest={self.nbest}: at most {most} with decode.method={self.method}; {of}")
        if self.lm_checksum:
            check_checksum("decode.lm_checksum", self.lm_checksum)

    @property
    def reads(self) -> set[str]:
        """The keys that the method reads: the others change nothing."""
        beam = {"beam_size", "beam_threshold"} if self.method != "greedy" else set()
        lm = {"lm", "lexicon", "lm_weight", "word_score", "mirror", "lm_checksum"} if self.method == "lm" else set()
        return {"method", "blank_penalty", "nbest"} | beam | lm


@dataclass
class Evaluation(Checked):
    reference_utterances: int = bounded(2, ge=0)  # of the integer graph, compared with TOSA's reference model bit by bit before all are run
    timing_utterances: int = bounded(20, ge=1)
    bootstrap: int = bounded(1000, ge=0)  # draws of utterances for the confidence interval of the WER; 0: none
    seed: int = bounded(0, ge=0)  # of those draws, and of the sample that is timed
    jobs: int = bounded(1, ge=1)  # processes that recognize utterances; changes no result


@dataclass
class Parity(Checked):
    """The parity ladder: what each form of a model loses, from the float model to what the device runs."""

    enabled: bool = True
    utterances: int = bounded(16, ge=1)  # of the dev split, or all that it has
    traced: int = bounded(2, ge=1)  # of these, those whose tensors are compared along the depth of the network
    departs_db: float = bounded(1.0, gt=0.0)  # the integer graph departs where it lies so far below the quantized program
    seed: int = bounded(0, ge=0)  # of the choice of utterances


@dataclass
class Tracking(Checked):
    """MLflow as a sink: where it is, and what is kept there beside the figures."""

    enabled: bool = True
    uri: str = MISSING  # sqlite:///FILE or http://HOST:PORT
    log_pte: bool = False  # keep each variant's model.pte as an artifact
    models: bool = True  # register each finished variant as a model that transcribes audio
    timeout_s: int = bounded(10, ge=1)  # longest wait for one answer of a server; MLFLOW_HTTP_REQUEST_TIMEOUT overrides it

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.uri)
        if parts.password or (parts.username and parts.scheme in ("http", "https")):
            raise ConfigError(  # without the value: messages are kept in logs
                f"Tracking.uri: holds a user or a password, which would be written to logs; give {parts.scheme}://{parts.hostname} without "
                "them, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
            )
