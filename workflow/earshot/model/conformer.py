"""The Conformer encoder with a CTC output layer (Gulati et al., 2020, https://arxiv.org/abs/2005.08100)."""

from __future__ import annotations

import copy
from collections.abc import Collection

import torch
from torch import nn

from earshot.config import Model
from earshot.errors import ConfigError
from earshot.model.attention import Attention, absolute_positions, relative_positions
from earshot.model.dropout import Dropout, skipped_by_some
from earshot.model.subsampling import ConvSubsampling, Frames, OutputGrid


class FeedForward(nn.Module):
    """Macaron half: normalise, widen, Swish, narrow (figure 4)."""

    def __init__(self, dim: int, factor: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, dim * factor)
        self.narrow = nn.Linear(dim * factor, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(nn.functional.silu(self.widen(self.norm(x_btd))))
        return self.dropout(self.narrow(hidden))


class SelfAttention(nn.Module):
    """Normalise, then attend (figure 3)."""

    def __init__(self, dim: int, heads: int, dropout: float, positions: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, dropout, positions)
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: torch.Tensor, positions_rd: torch.Tensor | None, valid_bt: torch.Tensor | None) -> torch.Tensor:
        return self.dropout(self.attention(self.norm(x_btd), positions_rd, valid_bt))


class SpeechBatchNorm(nn.BatchNorm1d):
    """BatchNorm over [B, D, T] whose batch statistics are those of speech frames.

    Were padding or silence counted, the statistics would follow how much of it a batch happens to have, and fit no utterance.
    """

    def forward(self, x_bdt: torch.Tensor, speech_bt: torch.Tensor | None) -> torch.Tensor:  # type: ignore[override]
        if speech_bt is None or not self.training:
            return super().forward(x_bdt)
        with torch.autocast(x_bdt.device.type, enabled=False):
            x_btd = x_bdt.transpose(1, 2).float()
            share_n = (speech_bt / speech_bt.sum()).flatten()
            mean = share_n @ x_btd.flatten(0, 1)
            centred_btd = x_btd - mean
            variance = share_n @ centred_btd.square().flatten(0, 1)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None  # the defaults
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        return torch.addcmul(self.bias, centred_btd, self.weight * torch.rsqrt(variance + self.eps)).transpose(1, 2)


class Depthwise(nn.Conv1d):
    """A filter of odd length along time for each channel of [B, D, T], zeros beyond both ends.

    Training on a CPU computes it as a two-dimensional convolution of memory that holds the channels of a frame together, as the layers
    around it do: forward and backward, that takes a quarter of the time. Always in float32: in bfloat16 it is no faster, and for some
    shapes (16 channels of 49 frames, kernel 15) PyTorch 2.13 never returns from it.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x_bdt: torch.Tensor) -> torch.Tensor:
        if not self.training or x_bdt.device.type != "cpu":
            return super().forward(x_bdt)
        with torch.autocast("cpu", enabled=False):
            x_bd1t = x_bdt.float().transpose(1, 2).unsqueeze(1).permute(0, 3, 1, 2)
            y_bd1t = nn.functional.conv2d(x_bd1t, self.weight.unsqueeze(2), self.bias, padding=(0, *self.padding), groups=self.groups)
        return y_bd1t.squeeze(2).to(x_bdt.dtype)


class Convolution(nn.Module):
    """Normalise, pointwise with GLU, depthwise, BatchNorm, Swish, pointwise (figure 2).

    The pointwise convolutions are linear layers: the same arithmetic, and no transposition between them and their neighbours.
    """

    def __init__(self, dim: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pointwise_in = nn.Linear(dim, 2 * dim)
        self.depthwise = Depthwise(dim, kernel)
        self.batch_norm = SpeechBatchNorm(dim)
        self.pointwise_out = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_btd: torch.Tensor, valid_bt: torch.Tensor | None, speech_bt: torch.Tensor | None) -> torch.Tensor:
        x_btd = nn.functional.glu(self.pointwise_in(self.norm(x_btd)), dim=-1)
        if valid_bt is not None:
            x_btd = x_btd * valid_bt[..., None]  # the kernel reaches into the padding: make it what the end of an utterance is, zero
        x_bdt = nn.functional.silu(self.batch_norm(self.depthwise(x_btd.transpose(1, 2)), speech_bt))
        return self.dropout(self.pointwise_out(x_bdt.transpose(1, 2)))


class ConformerBlock(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, normalise (equation 1)."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.feed_forward1 = FeedForward(config.dim, config.feed_forward_factor, config.dropout)
        self.self_attention = SelfAttention(config.dim, config.heads, config.dropout, config.positions != "none")
        self.convolution = Convolution(config.dim, config.conv_kernel, config.dropout)
        self.feed_forward2 = FeedForward(config.dim, config.feed_forward_factor, config.dropout)
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self, x_btd: torch.Tensor, positions_rd: torch.Tensor | None, valid_bt: torch.Tensor | None, speech_bt: torch.Tensor | None
    ) -> torch.Tensor:
        x_btd = x_btd + 0.5 * self.feed_forward1(x_btd)
        x_btd = x_btd + self.self_attention(x_btd, positions_rd, valid_bt)
        x_btd = x_btd + self.convolution(x_btd, valid_bt, speech_bt)
        x_btd = x_btd + 0.5 * self.feed_forward2(x_btd)
        return self.norm(x_btd)


class Conformer(nn.Module):
    """Normalised log-mel features [B, T, n_mels] to CTC logits [B, T', outputs].

    `lengths_b` holds the valid frames of each utterance of a padded batch; padding then never changes the result of a valid frame. Without
    it every frame is valid: that is the form that is exported for a fixed window. `hear_padding` is for training for that form: nothing is
    masked, and only the batch statistics leave the padding out.
    """

    def __init__(self, config: Model, n_mels: int, outputs: int) -> None:
        super().__init__()
        self.subsampling = ConvSubsampling(n_mels, config.subsampling_channels, config.dim)
        self.dropout = Dropout(config.dropout)
        self.stochastic_depth = config.stochastic_depth
        self.blocks = nn.ModuleList(ConformerBlock(config) for _ in range(config.layers))
        self.output = nn.Linear(config.dim, outputs)
        # Derived from the shapes alone and made anew for another length: a plain attribute, no part of a checkpoint or of averaged weights.
        self.dim, self.positions = config.dim, config.positions
        self.positions_rd = self.position_table(1)

    @property
    def grid(self) -> OutputGrid:
        """How outputs lie over input frames."""
        return self.subsampling.grid

    def output_lengths(self, frames: Frames) -> Frames:
        """Valid output frames of `frames` input frames."""
        return self.grid.output_frames(frames)

    def forward(self, x_btf: torch.Tensor, lengths_b: torch.Tensor | None = None, hear_padding: bool = False) -> torch.Tensor:
        return self.logits_after([len(self.blocks)], x_btf, lengths_b, hear_padding)[0]

    def logits_after(
        self, depths: Collection[int], x_btf: torch.Tensor, lengths_b: torch.Tensor | None = None, hear_padding: bool = False
    ) -> list[torch.Tensor]:
        """What the output layer makes of the result of the first n blocks, for each n of `depths`, the smallest first."""
        x_btd = self.dropout(self.subsampling(x_btf))
        frames = x_btd.shape[1]
        speech_bt = None
        if lengths_b is not None:
            speech_bt = torch.arange(frames, device=x_btd.device) < self.output_lengths(lengths_b)[:, None]
        valid_bt = None if hear_padding else speech_bt
        if valid_bt is not None and self.positions == "absolute":
            raise ConfigError("model.positions=absolute: for imported weights only, which know no padding; train with relative")
        positions_rd = self._positions(frames, x_btd.device)
        found = []
        for depth, block in enumerate(self.blocks, start=1):
            given_btd, x_btd = x_btd, block(x_btd, positions_rd, valid_bt, speech_bt)
            if self.training and self.stochastic_depth:
                x_btd = skipped_by_some(given_btd, x_btd, self.stochastic_depth * depth / len(self.blocks))
            if depth in depths:
                found.append(self.output(x_btd))
        return found

    def position_table(self, frames: int) -> torch.Tensor | None:
        """What the attention of `frames` output frames takes as positions: [2 * frames - 1, dim], absolute [frames, dim], or nothing."""
        return None if self.positions == "none" else self._sinusoids(frames)

    def _sinusoids(self, frames: int) -> torch.Tensor:
        return (relative_positions if self.positions == "relative" else absolute_positions)(frames, self.dim)

    def _positions(self, frames: int, device: torch.device) -> torch.Tensor | None:
        if self.positions_rd is None:
            return None
        relative, rows = self.positions == "relative", self.positions_rd.shape[0]
        longest = (rows + 1) // 2 if relative else rows
        if frames == longest and device == self.positions_rd.device:
            return self.positions_rd
        if frames > longest or device != self.positions_rd.device:
            longest = max(longest, frames)
            self.positions_rd = self._sinusoids(longest).to(device)
        return self.positions_rd[longest - frames : longest + frames - 1] if relative else self.positions_rd[:frames]

    def for_window(self, frames: int) -> Conformer:
        """A copy for inference whose constants fit a window of exactly `frames` input frames: what is exported.

        Raises:
            ConfigError: the window gives no output frame.
        """
        outputs = self.output_lengths(frames)
        if outputs < 1:
            raise ConfigError(f"a window of {frames} frames is too short: the subsampling leaves no output frame; lengthen window.seconds")
        model = copy.deepcopy(self).eval().requires_grad_(False)
        del model.positions_rd
        model.register_buffer("positions_rd", self.position_table(outputs), persistent=False)
        return model
