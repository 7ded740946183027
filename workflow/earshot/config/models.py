"""Groups of a model: its shape, its NPU form, its training, or where it is imported from."""

from __future__ import annotations

from dataclasses import dataclass, field

from earshot.config.fields import Checked, bounded, one_of
from earshot.errors import ConfigError


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
    stochastic_depth: float = bounded(0.0, ge=0.0, lt=1.0)  # part of the utterances that skip the last block in training; less earlier
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
    short_first_epochs: int = bounded(0, ge=0)  # so many epochs go from the shortest utterance to the longest one
    optimizer: str = one_of("adamw", "adamw", "muon")  # muon: for the matrices of the blocks; AdamW for the rest
    lr: float = bounded(5e-4, gt=0.0)
    muon_lr: float = bounded(0.02, gt=0.0)
    weight_decay: float = bounded(1e-6, ge=0.0)
    warmup_epochs: float = bounded(2.0, ge=0.0)
    schedule: str = one_of("cosine", "cosine", "linear", "constant")
    grad_clip: float = bounded(5.0, gt=0.0)
    accumulate: int = bounded(1, ge=1)  # batches in a step of the optimizer
    precision: str = one_of("fp32", "fp32", "bf16", "fp16")  # fp16: with loss scaling
    accelerator: str = one_of("auto", "auto", "cpu", "gpu")
    devices: int = bounded(1, ge=1)  # processes on a machine, one for each GPU
    nodes: int = bounded(1, ge=1)  # machines
    strategy: str = one_of("auto", "auto", "ddp")
    # What a recording goes through before its features are computed, other things in each epoch; that needs features.stored=false.
    speeds: list[float] = field(default_factory=lambda: [1.0])  # an utterance is spoken at one of these
    noise: str | None = None  # folder of noises in .wav, as MUSAN has them; null: none are added
    noise_p: float = bounded(0.5, ge=0.0, le=1.0)  # part of the utterances that get noise
    noise_snr_db: list[float] = field(default_factory=lambda: [5.0, 25.0])  # least and greatest signal-to-noise ratio
    rooms: str | None = None  # folder of room impulse responses in .wav; null: none
    rooms_p: float = bounded(0.3, ge=0.0, le=1.0)  # part of the utterances that are heard in a room
    freq_masks: int = bounded(2, ge=0)
    freq_mask_bins: int = bounded(27, ge=1)
    time_masks: int = bounded(5, ge=0)
    time_mask_fraction: float = bounded(0.05, ge=0.0, le=1.0)  # longest mask, as a part of the utterance
    silence_p: float = bounded(0.5, ge=0.0, le=1.0)  # part of the batches whose padding is heard as silence, as a fixed window does
    silence_max_s: float = bounded(3.0, ge=0.0)  # longest silence that such a batch is lengthened by
    intermediate_ctc: float = bounded(0.0, ge=0.0, lt=1.0)  # part of the loss that is that of a quarter, half, three quarters of the blocks
    # CR-CTC: each batch is heard twice, under different masks; weight of what the two results differ by (0.2 in the paper). 0: heard once.
    consistency: float = bounded(0.0, ge=0.0)
    ema_decay: float = bounded(0.999, ge=0.0, lt=1.0)  # the weights that are kept are an exponential moving average over the steps
    average: str = one_of("ema", "ema", "last", "best")  # weights of the result: the moving average; the mean of kept epochs
    kept_epochs: int = bounded(5, ge=1)  # epochs whose moving averages are kept: so many last ones, so many with the lowest dev WER
    patience_epochs: int | None = None  # stop when the dev loss has not fallen for so long; null: never
    seed: int = bounded(0, ge=0)
    data_workers: int = bounded(0, ge=0)
    checkpoint_every_s: float = bounded(600.0, ge=0.0)  # how much work an interruption may cost, beside the checkpoint of each epoch
    checkpoint: str | None = None  # a model directory whose weights training starts from
    fresh_output: bool = False  # of that checkpoint the output layer is not taken: it may be of another tokenizer

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.speeds or not all(0.5 <= speed <= 2.0 for speed in self.speeds):
            raise ConfigError(f"Train.speeds={self.speeds}: at least one, each from 0.5 to 2")
        if len(self.noise_snr_db) != 2 or self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ConfigError(f"Train.noise_snr_db={self.noise_snr_db}: the least and the greatest ratio")

    @property
    def perturbs_audio(self) -> bool:
        """Whether the recordings are changed, so that no features of theirs can be stored."""
        return self.speeds != [1.0] or self.noise is not None or self.rooms is not None


@dataclass
class Imported(Checked):
    """A checkpoint that others trained, instead of a training here, and what its tensors do not say."""

    checkpoint: str | None = None  # .pt, .pth or .safetensors; or model.safetensors in a model directory or export of earshot's
    tokenizer: str | None = None  # a SentencePiece .model, or a text file with a piece a line
    statistics: str | None = None  # JSON with mean and std of the features, of each mel bin; null: the network takes them unnormalised
    check: str | None = None  # .npz or .safetensors with features and logits of the original network, to compare with
    blank: int | None = bounded(None, ge=-1)  # the output that is the CTC blank; -1: the last one
    heads: int | None = bounded(None, ge=1)  # only where the tensors do not tell it
    score_scale: str = one_of("auto", "auto", "d_head", "d_model")  # attention scores are divided by its root; auto: as the release does
    half_step_residual: bool = True  # feed-forward modules count half (the paper); false: wholly
    letter_case: str = one_of("upper", "upper", "keep")  # of the pieces: the transcripts of earshot's corpora are in capitals
