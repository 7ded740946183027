"""The log-mel front end: the one implementation that training, calibration, evaluation and the device bundle use.

`LogMel` turns samples into log-mel energies; `FrontEnd` adds the normalisation over the training split and gives a network its input.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torchaudio

from earshot.config import SAMPLE_RATE_HZ, Features
from earshot.errors import ArtifactError, ConfigError
from earshot.files import read_json, write_json


class LogMel(torch.nn.Module):
    """Samples [..., n] at 16 kHz to natural-log mel energies [..., frames, n_mels].

    A frame is an FFT over `n_fft` samples, of which a periodic Hann window of `win_length` takes the middle; frames start every
    `hop_length` samples and lie wholly inside the audio (no padding), so that a device can compute them as samples arrive.
    """

    def __init__(self, config: Features) -> None:
        super().__init__()
        if config.win_length > config.n_fft:
            raise ConfigError(f"Features.win_length={config.win_length}: must not exceed Features.n_fft={config.n_fft}")
        if config.f_min_hz >= config.f_max_hz:
            raise ConfigError(f"Features.f_min_hz={config.f_min_hz}: must be below Features.f_max_hz={config.f_max_hz}")
        self.config = config
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=SAMPLE_RATE_HZ,
            n_fft=config.n_fft,
            win_length=config.win_length,
            hop_length=config.hop_length,
            n_mels=config.n_mels,
            f_min=config.f_min_hz,
            f_max=config.f_max_hz,
            center=False,
            power=2.0,
        )

    @torch.no_grad()
    def forward(self, audio: torch.Tensor | np.ndarray) -> torch.Tensor:
        mel = self.mel(torch.as_tensor(audio, dtype=torch.float32))
        floored = mel + self.config.log_floor if self.config.floor_by == "sum" else mel.clamp_min(self.config.log_floor)
        return floored.log().transpose(-1, -2).contiguous()

    def frames(self, samples: int) -> int:
        """Number of frames of `samples` samples."""
        return max(0, (samples - self.config.n_fft) // self.config.hop_length + 1)

    def samples(self, frames: int) -> int:
        """The fewest samples that give `frames` frames."""
        return (frames - 1) * self.config.hop_length + self.config.n_fft


class FrontEnd:
    """Samples to the network's input: log-mel energies, normalised per bin by the mean and standard deviation of the training split."""

    def __init__(self, config: Features, mean: list[float], std: list[float]) -> None:
        self.config = config
        self.log_mel = LogMel(config)
        self.mean, self.std = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        self.hop_length, self.n_mels = config.hop_length, config.n_mels
        self.frames, self.samples = self.log_mel.frames, self.log_mel.samples

    def __call__(self, audio: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Float samples [n] at 16 kHz, full scale 1, to features [frames, n_mels]; fewer samples than one FFT takes give no frame."""
        if len(audio) < self.config.n_fft:
            return torch.zeros(0, self.n_mels)
        return self.normalise(self.log_mel(audio))

    def normalise(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Log-mel energies [..., n_mels] to the network's input of the same shape."""
        return (log_mel - self.mean) / self.std

    def to(self, device: torch.device) -> FrontEnd:
        """The same front end on another device, where its input is."""
        if device == self.mean.device:
            return self
        moved = copy.deepcopy(self)
        moved.log_mel.to(device)
        moved.mean, moved.std = self.mean.to(device), self.std.to(device)
        return moved

    @property
    def floored_energy(self) -> str:
        """The formula of what the logarithm is taken of, of a mel energy `mel`."""
        return "mel + log_floor" if self.config.floor_by == "sum" else "max(mel, log_floor)"

    def silence(self) -> torch.Tensor:
        """The features [n_mels] of digital silence, with which an utterance is padded to a window."""
        return self.normalise(torch.full_like(self.mean, self.config.log_floor).log())

    def save(self, path: str | Path) -> None:
        """Write front_end.json: every constant that a port to a device needs."""
        filters = self.log_mel.mel.mel_scale.fb.T  # [n_mels, n_fft // 2 + 1]
        write_json(
            path,
            {
                "sample_rate_hz": SAMPLE_RATE_HZ,
                "config": asdict(self.config),
                "frame": "n_fft samples every hop_length samples, no padding; the window lies in the middle of the n_fft samples",
                "window": self.log_mel.mel.spectrogram.window.tolist(),
                "spectrum": "squared magnitude of the first n_fft // 2 + 1 bins",
                "mel_filters": [
                    {"first_bin": int(row.nonzero()[0]), "weights": row[row > 0].tolist()} if row.any() else {"first_bin": 0, "weights": []}
                    for row in filters
                ],
                "feature": f"(ln({self.floored_energy}) - mean) / std, per mel bin",
                "mean": self.mean.tolist(),
                "std": self.std.tolist(),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> FrontEnd:
        """Read what `save` wrote.

        Raises:
            ArtifactError: the file is absent or damaged.
        """
        content = read_json(path)
        try:
            return cls(Features(**content["config"]), content["mean"], content["std"])
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: not a front end ({error}); run the features step again") from error
