"""What a batch of features is changed by while it is trained on."""

from __future__ import annotations

import random

import torch
import torchaudio

from earshot.config import SAMPLE_RATE_HZ, Train
from earshot.features import FrontEnd


def with_silence(features_btf: torch.Tensor, config: Train, front_end: FrontEnd) -> torch.Tensor:
    """The padded batch with up to `silence_max_s` more of silence: what a short utterance looks like in the fixed window of a program."""
    extra = int(random.uniform(0, config.silence_max_s) * SAMPLE_RATE_HZ / front_end.hop_length)
    silence = front_end.silence().to(features_btf).expand(features_btf.shape[0], extra, -1)
    return torch.cat([features_btf, silence], dim=1)


def spec_augment(features_btf: torch.Tensor, config: Train) -> torch.Tensor:
    """Masks of frequency and time, other ones for each utterance, filled with the mean (Park et al., 2019)."""
    x = features_btf.transpose(1, 2).unsqueeze(1)  # [B, 1, n_mels, T]
    mask = torchaudio.functional.mask_along_axis_iid
    for _ in range(config.freq_masks):
        x = mask(x, mask_param=config.freq_mask_bins, mask_value=0.0, axis=2)
    longest = int(config.time_mask_fraction * x.shape[3])
    for _ in range(config.time_masks if longest else 0):
        x = mask(x, mask_param=longest, mask_value=0.0, axis=3)
    return x.squeeze(1).transpose(1, 2)
