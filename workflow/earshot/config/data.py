"""Groups of what a recognizer learns from: corpus, features, tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from earshot.config.fields import SAMPLE_RATE_HZ, Checked, bounded, check_checksum, one_of


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
            check_checksum(f"LibriSpeech.checksums: {subset}", checksum)


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
    stored: bool = True  # false: only the statistics are; training computes features anew in each epoch, on the GPU where there is one
    shard_utterances: int = bounded(1000, ge=1)
    jobs: int = bounded(2, ge=1)


@dataclass
class Tokenizer(Checked):
    vocab_size: int = bounded(128, ge=8, le=8192)
    model_type: str = one_of("unigram", "unigram", "bpe", "char")
    character_coverage: float = bounded(1.0, gt=0.9, le=1.0)
