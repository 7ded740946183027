"""The front end as a network: matrix products with constant tables, which exporters and compilers take where they know no FFT."""

from __future__ import annotations

import math

import torch
from torch import nn

from earshot.features import FrontEnd


class WindowFrontEnd(nn.Module):
    """Samples [1, n] of a window, full scale 1, to normalised features [1, frames, n_mels], as `FrontEnd` computes them; n is `samples`.

    The discrete Fourier transform is a product of frames and a table of cosines and sines with the window in it. Only the bins that a mel
    filter takes are computed, and only the samples that the window does not multiply by 0. Frames overlap, so each is put together of hops.
    """

    cosines: torch.Tensor  # [n_bins, hops * hop_length], as sines
    sines: torch.Tensor
    filters: torch.Tensor  # [n_mels, n_bins]
    mean: torch.Tensor  # [n_mels], as inverse_std
    inverse_std: torch.Tensor

    def __init__(self, front_end: FrontEnd, frames: int) -> None:
        super().__init__()
        config, filters = front_end.config, front_end.log_mel.mel.mel_scale.fb  # [bins, n_mels]
        used = filters.any(dim=1).nonzero().flatten()
        bins = torch.arange(int(used.min()), int(used.max()) + 1)
        self.frames, self.hop_length, self.samples = frames, config.hop_length, front_end.samples(frames)
        self.first, self.hops = (config.n_fft - config.win_length) // 2, math.ceil(config.win_length / config.hop_length)
        taps = torch.arange(self.first, self.first + config.win_length)
        angles = 2 * math.pi / config.n_fft * (bins[:, None] * taps % config.n_fft).double()
        window = front_end.log_mel.mel.spectrogram.window.double()
        to_hops = (0, self.hops * config.hop_length - config.win_length)
        for name, wave in (("cosines", angles.cos()), ("sines", angles.sin())):
            self.register_buffer(name, nn.functional.pad(wave * window, to_hops).float())
        self.register_buffer("filters", filters[bins].T.contiguous())
        self.register_buffer("mean", front_end.mean)
        self.register_buffer("inverse_std", 1 / front_end.std)
        self.log_floor, self.floor_is_added = config.log_floor, config.floor_by == "sum"

    def forward(self, audio_bn: torch.Tensor) -> torch.Tensor:
        needed = self.first + (self.frames + self.hops - 1) * self.hop_length
        audio_bn = nn.functional.pad(audio_bn, (0, max(0, needed - self.samples)))[:, self.first : needed]
        hops = audio_bn.reshape(1, self.frames + self.hops - 1, self.hop_length)
        frames = torch.cat([hops[:, i : i + self.frames] for i in range(self.hops)], dim=-1)
        real, imaginary = nn.functional.linear(frames, self.cosines), nn.functional.linear(frames, self.sines)
        mel = nn.functional.linear(real * real + imaginary * imaginary, self.filters)
        floored = mel + self.log_floor if self.floor_is_added else mel.clamp_min(self.log_floor)
        return (floored.log() - self.mean) * self.inverse_std


class FromAudio(nn.Module):
    """Samples [1, n] of a window to logits [1, T', V]: front end and network as one program."""

    def __init__(self, front_end: WindowFrontEnd, network: nn.Module) -> None:
        super().__init__()
        self.front_end, self.network = front_end, network

    def forward(self, audio_bn: torch.Tensor) -> torch.Tensor:
        return self.network(self.front_end(audio_bn))
