"""What a recording goes through before its features are computed: another speed, a room, noise.

All of it follows from the seed, the epoch and the id of the utterance: a training that was interrupted hears the same as one that was not,
with any number of workers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import CutSet
from lhotse.cut import MonoCut

from earshot.config import SAMPLE_RATE_HZ, Train
from earshot.corpus.audio import read_audio, undecodable
from earshot.errors import ConfigError, DataError

QUIETEST = 1e-10  # power below which a signal counts as silence


def at_speeds(cuts: CutSet, speeds: list[float], seed: int, epoch: int) -> CutSet:
    """Each utterance at one of the speeds, as a tape that is played faster or slower (Ko et al., 2015); nothing is read yet."""
    return cuts if speeds == [1.0] else cuts.map(partial(_at_speed, speeds=speeds, key=f"{seed} {epoch}"))


def _at_speed(cut: MonoCut, speeds: list[float], key: str) -> MonoCut:
    speed = random.Random(f"speed {key} {cut.id}").choice(speeds)
    return cut if speed == 1.0 else cut.perturb_speed(speed)


def recordings(folder: str, key: str) -> list[Path]:
    """The .wav files anywhere below a folder, in order.

    Raises:
        ConfigError: there are none.
    """
    found = sorted(Path(folder).rglob("*.wav"))
    if not found:
        raise ConfigError(f"train.{key}={folder}: no .wav files there; unpack the corpus there, or choose its folder")
    return found


@dataclass(frozen=True)
class Perturbation:
    """Changes the samples [n] of an utterance: a room (`rooms` are its impulse responses), then noise (some of `noises`)."""

    config: Train
    noises: list[Path]
    rooms: list[Path]
    epoch: int = 0

    def __call__(self, samples: np.ndarray, utterance: str) -> np.ndarray:
        rng = random.Random(f"perturb {self.config.seed} {self.epoch} {utterance}")
        if self.rooms and rng.random() < self.config.rooms_p:
            samples = in_room(samples, read_audio(rng.choice(self.rooms)))
        if self.noises and rng.random() < self.config.noise_p:
            noise = excerpt(rng.choice(self.noises), len(samples), rng.random())
            samples = with_noise(samples, noise, rng.uniform(*self.config.noise_snr_db))
        return samples


def excerpt(path: Path, samples: int, place: float) -> np.ndarray:
    """So many samples of a recording from anywhere in it (`place`, 0 to 1), again and again where it is shorter.

    Raises:
        ConfigError: not 16 kHz mono.
        DataError: it cannot be decoded.
    """
    try:
        with soundfile.SoundFile(path) as file:
            if (file.samplerate, file.channels) != (SAMPLE_RATE_HZ, 1):
                reason = f"{file.samplerate} Hz, {file.channels} channels; convert it to {SAMPLE_RATE_HZ} Hz mono"
                raise ConfigError(f"{path}: {reason}")
            file.seek(int(place * max(0, file.frames - samples)))
            return np.resize(file.read(samples, dtype="float32"), samples)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: {undecodable(path, error)}") from None


def with_noise(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """`speech` [n] and `noise` [n] added at a signal-to-noise ratio; the speech stays as loud as it is."""
    power = np.square(speech).mean() / 10 ** (snr_db / 10)
    return speech + noise * np.float32(np.sqrt(power / max(np.square(noise).mean(), QUIETEST)))


def in_room(speech: np.ndarray, response: np.ndarray) -> np.ndarray:
    """`speech` [n] as it is heard where `response` [m] was measured: as long, as loud, and not later (the direct path comes at once)."""
    size = 1 << (len(speech) + len(response) - 1).bit_length()  # a transform of a length with large factors takes many times as long
    heard = torch.fft.irfft(torch.fft.rfft(torch.from_numpy(speech), size) * torch.fft.rfft(torch.from_numpy(response), size), size)
    direct = int(np.abs(response).argmax())
    heard = heard[direct : direct + len(speech)].numpy()
    return heard * np.float32(np.sqrt(np.square(speech).mean() / max(np.square(heard).mean(), QUIETEST)))
