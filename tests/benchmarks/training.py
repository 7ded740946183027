"""A training step (forward, CTC loss, backward, AdamW) of our Conformer against torchaudio.models.Conformer of equal size.

    python tests/benchmarks/training.py  # after the demo, whose corpus it takes
    python tests/benchmarks/training.py --cuts results/corpus/local_speech_9h/train.cuts.jsonl.gz

Both get the same subsampling in front, the same output layer behind, the same optimizer, padded batches and precision, in the same run, a
step of the one after a step of the other. torchaudio's Conformer has no relative positions, so its layers are given the width of
feed-forward that makes the parameters equal. Those of --cuts have the lengths of real utterances: ours as training draws them, by like
duration; the peer's both those and others of as many seconds drawn at random. The limit of the machine is what the matrix products and
convolutions of such a step would take by themselves at the measured rate of a large matrix product.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from itertools import islice
from pathlib import Path

import torch
import torchaudio
from lhotse import CutSet
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode

from earshot import optimizer
from earshot.bfloat16 import is_native
from earshot.config import CONF_DIR, Model, Train
from earshot.corpus.manifest import load_cuts
from earshot.data import batches
from earshot.model import Conformer
from earshot.model.subsampling import ConvSubsampling

N_MELS, OUTPUTS, FRAMES_PER_S = 80, 129, 100
DEMO = Path("results/corpus/synth/train.cuts.jsonl.gz")


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


Batch = tuple[torch.Tensor, ...]
PARTS = ("forward", "loss", "backward", "optimizer")


def batch_of(durations_s: list[float]) -> Batch:
    """Noise of such lengths, padded, and as many pieces as speech has."""
    lengths = torch.tensor(durations_s).mul(FRAMES_PER_S).long()
    target_lengths = (lengths // 15).clamp_min(1)
    targets = torch.randint(1, OUTPUTS, (int(target_lengths.sum()),))
    return torch.randn(len(lengths), int(lengths.max()), N_MELS), lengths, targets, target_lengths


def audio_s(given: list[Batch]) -> float:
    """Without padding."""
    return sum(float(lengths.sum()) for _, lengths, *_ in given) / FRAMES_PER_S


class Learner:
    """A model and its optimizer; `seconds` holds what each part of each step has taken."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model, self.optimizer = model.train(), optimizer.build(model, Train())  # AdamW
        self.seconds: list[dict[str, float]] = []

    def step(self, batch: Batch, bf16: bool) -> float:
        """Train on a batch; its seconds."""
        x, lengths, targets, target_lengths = batch
        laps = [time.perf_counter()]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = self.model(x, lengths)
        laps.append(time.perf_counter())
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(log_probs, targets, self.model.output_lengths(lengths), target_lengths, zero_infinity=True)
        laps.append(time.perf_counter())
        loss.backward()
        laps.append(time.perf_counter())
        self.optimizer.step()
        self.optimizer.zero_grad()
        laps.append(time.perf_counter())
        self.seconds.append({part: end - start for part, start, end in zip(PARTS, laps, laps[1:], strict=False)})
        return laps[-1] - laps[0]


def compare(own: Learner, peer: Learner, pairs: list[tuple[list[Batch], list[Batch]]], bf16: bool = False) -> dict[str, float]:
    """How much audio per second each trains on; each pair is what the two get in turn, the first of them to warm up."""
    own_rates, peer_rates = [], []
    for own_given, peer_given in pairs:
        for learner, given, rates in ((own, own_given, own_rates), (peer, peer_given, peer_rates)):
            rates.append(audio_s(given) / sum(learner.step(batch, bf16) for batch in given))
    ratio = statistics.median(mine / theirs for mine, theirs in zip(own_rates[1:], peer_rates[1:], strict=True))
    rates = {"x_realtime": statistics.median(own_rates[1:]), "peer_x_realtime": statistics.median(peer_rates[1:])}
    return {**{name: round(rate, 1) for name, rate in rates.items()}, "ratio": round(ratio, 3)}


def gemm_gflops(rows: int, config: Model, repeats: int = 20) -> float:
    """Billions of operations a second of the product of a feed-forward module: [rows, dim] by [dim, widened]."""
    a, b = torch.randn(rows, config.dim), torch.randn(config.dim, config.dim * config.feed_forward_factor)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] / min(times) / 1e9


def where_time_goes(learner: Learner, config: Model, batch: Batch) -> dict[str, object]:
    """Shares of the steps in float32 that were measured, and what the matrix products and convolutions of one would take by themselves."""
    steps = learner.seconds[1:]
    mean = {part: statistics.mean(step[part] for step in steps) for part in PARTS}
    with FlopCounterMode(display=False) as counter:
        learner.step(batch, bf16=False)
    rate = gemm_gflops(int(batch[1].sum()) // learner.model.subsampling.grid.factor, config)
    step_s = sum(learner.seconds.pop().values())
    found = {f"share_{part}": round(seconds / sum(mean.values()), 3) for part, seconds in mean.items()}
    gflop = counter.get_total_flops() / 1e9
    return found | {"gemm_gflops": round(rate, 1), "step_gflop": round(gflop, 1), "share_at_gemm_rate": round(gflop / rate / step_s, 3)}


class Durations:
    """Stands for what makes batches of features: the lengths are enough here."""

    def __getitem__(self, cuts: CutSet) -> list[float]:
        return [cut.duration for cut in cuts]


def drawn(cuts: Path, batch_s: float, count: int) -> tuple[list[Batch], list[Batch]]:
    """Batches of the lengths of utterances: as training draws them, and of as many seconds, padding counted, in no order."""
    bucketed = islice(batches(cuts, Durations(), batch_s, Train().buckets, 0, True), count)
    left = [cut.duration for cut in load_cuts(cuts)]
    random.Random(0).shuffle(left)
    mixed: list[list[float]] = [[]]
    for duration in left:
        if max([duration, *mixed[-1]]) * (len(mixed[-1]) + 1) > batch_s:
            if len(mixed) == count:
                break
            mixed.append([])
        mixed[-1].append(duration)
    return [batch_of(batch) for batch in bucketed], [batch_of(batch) for batch in mixed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="conformer_s", help="a file of conf/model")
    parser.add_argument("--utterances", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=12.0, help="of the longest utterance; the shortest has four fifths of it")
    parser.add_argument(
        "--cuts", type=Path, default=DEMO, help="a manifest of the corpus step: its utterances, by default those of the demo"
    )
    parser.add_argument("--batch-s", type=float, default=100.0, help="seconds of audio in a batch of --cuts, padding counted")
    parser.add_argument("--batches", type=int, default=8, help="of --cuts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="conformer_xs, one repeat")
    args = parser.parse_args()
    if not args.cuts.exists():
        parser.error(f"{args.cuts}: no such file; run `snakemake --cores all`, or give --cuts of another corpus")
    name, repeats = ("conformer_xs", 1) if args.quick else (args.model, args.repeats)
    config = Model(**OmegaConf.load(CONF_DIR / "model" / f"{name}.yaml"))
    torch.manual_seed(0)
    own = Learner(Conformer(config, N_MELS, OUTPUTS))
    peer = Learner(equal_peer(config, parameters(own.model)))
    batch = batch_of(torch.linspace(0.8, 1.0, args.utterances).mul(args.seconds).tolist())
    result = {"model": name, "parameters": parameters(own.model), "peer_parameters": parameters(peer.model)}
    result |= {"threads": torch.get_num_threads(), "batch_audio_s": round(audio_s([batch]), 1)}
    same = [([batch], [batch])] * (repeats + 1)
    result["fp32"] = compare(own, peer, same)
    result["where"] = where_time_goes(own, config, batch)
    if is_native():
        result["bf16"] = compare(own, peer, same, bf16=True)
    bucketed, mixed = drawn(args.cuts, args.batch_s, args.batches)
    for key, others in (("same_batches", bucketed), ("bucketing_counted_in", mixed)):
        result[key] = compare(own, peer, [(bucketed[:1], others[:1]), (bucketed, others)])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
