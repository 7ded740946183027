"""A training step (forward, CTC loss, backward, AdamW) of our Conformer against torchaudio.models.Conformer of equal size.

Both get the same subsampling in front, the same output layer behind, the same padded batch and precision, in the same run. torchaudio's
Conformer has no relative positions, so its layers are given the width of feed-forward that makes the parameters equal.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
import torchaudio
from omegaconf import OmegaConf

from earshot.config import CONF_DIR, Model
from earshot.model import Conformer
from earshot.model.subsampling import ConvSubsampling

N_MELS, OUTPUTS, FRAMES_PER_S = 80, 129, 100


class Peer(torch.nn.Module):
    """torchaudio's Conformer between our subsampling and our output layer."""

    def __init__(self, config: Model, ffn_dim: int) -> None:
        super().__init__()
        self.subsampling = ConvSubsampling(N_MELS, config.subsampling_channels, config.dim)
        self.encoder = torchaudio.models.Conformer(config.dim, config.heads, ffn_dim, config.layers, config.conv_kernel, config.dropout)
        self.output = torch.nn.Linear(config.dim, OUTPUTS)

    def forward(self, x_btf: torch.Tensor, lengths_b: torch.Tensor) -> torch.Tensor:
        x_btd, _ = self.encoder(self.subsampling(x_btf), self.output_lengths(lengths_b))
        return self.output(x_btd)

    def output_lengths(self, frames_b: torch.Tensor) -> torch.Tensor:
        return self.subsampling.grid.output_frames(frames_b)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def equal_peer(config: Model, wanted: int) -> Peer:
    """The peer whose feed-forward is as wide as `wanted` parameters allow."""
    base, wider = parameters(Peer(config, 8)), parameters(Peer(config, 16))
    return Peer(config, max(8, 8 + 8 * round((wanted - base) / (wider - base))))


def step_s(model: torch.nn.Module, batch: tuple[torch.Tensor, ...], bf16: bool, repeats: int) -> float:
    """Seconds of the fastest step."""
    x, lengths, targets, target_lengths = batch
    optimizer = torch.optim.AdamW(model.parameters())
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(x, lengths)
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(log_probs, targets, model.output_lengths(lengths), target_lengths, zero_infinity=True)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="conformer_s", help="a file of conf/model")
    parser.add_argument("--utterances", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=12.0, help="of the longest utterance; the shortest has four fifths of it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="conformer_xs, one repeat")
    args = parser.parse_args()
    name, repeats = ("conformer_xs", 1) if args.quick else (args.model, args.repeats)
    config = Model(**OmegaConf.load(CONF_DIR / "model" / f"{name}.yaml"))
    torch.manual_seed(0)
    lengths = torch.linspace(0.8, 1.0, args.utterances).mul(args.seconds * FRAMES_PER_S).long()
    target_lengths = (lengths // 15).clamp_min(1)
    targets = torch.randint(1, OUTPUTS, (int(target_lengths.sum()),))
    batch = (torch.randn(args.utterances, int(lengths.max()), N_MELS), lengths, targets, target_lengths)
    audio_s = float(lengths.sum()) / FRAMES_PER_S
    own = Conformer(config, N_MELS, OUTPUTS).train()
    peer = equal_peer(config, parameters(own)).train()
    result = {"model": name, "parameters": parameters(own), "peer_parameters": parameters(peer), "batch_audio_s": round(audio_s, 1)}
    for precision in ("fp32", "bf16"):
        ours, theirs = (step_s(model, batch, precision == "bf16", repeats) for model in (own, peer))
        result[precision] = {
            "x_realtime": round(audio_s / ours, 1),
            "peer_x_realtime": round(audio_s / theirs, 1),
            "ratio": round(theirs / ours, 3),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
