"""A trained Conformer as it is and in its NPU form, quantized alike and compiled side by side: cycles, memory, accuracy, lowering time.

    python tests/benchmarks/npu_cycles.py WORK --model results/train/conformer_s-synth --corpus results/corpus/synth
    python tests/benchmarks/npu_cycles.py WORK --parts

WORK keeps what was made; a step whose outputs are there is not done again. Without --model, a synthetic corpus and random weights are made
there: they cost the cycles of trained ones, but say nothing of words. --parts compiles each part of a block by itself, both ways. --public
compiles the model as public code writes it, too (public_form.py), which is what Arm's example does. Cycles and memory are Vela's estimates
for the target; SQNR is that of the integer graph's logits against the float model's, over test utterances; `cpu_s` is what each step took,
the start of its process included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from public_form import public_form
from steps import CPU_S, composed, corpus_steps, lowered, stage, untrained
from torch import nn

from earshot import windows
from earshot.config import Calib, Model, Quant, Target
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.files import read_json
from earshot.lower import ethosu, to_tosa, vela_report
from earshot.lower.tosa import IntegerGraph
from earshot.model import Conformer, checkpoint
from earshot.model.attention import relative_positions, relative_shift
from earshot.model.npu.attention import NpuSelfAttention, attend, shift_two
from earshot.model.npu.layers import Normalise, NpuConvolution, NpuFeedForward
from earshot.model.npu.subsampling import NpuSubsampling
from earshot.quantize import program, schemes
from earshot.windows import fit_window

N_MELS = 80
FORMS = {"npu": "form.npu_form=true", "plain": "form.npu_form=false"}


def random_model(work: Path, name: str, minutes: float) -> tuple[Path, Path]:
    """Model and corpus directories: weights as they are before training, and a small synthetic corpus."""
    corpus, features, tokenizer = corpus_steps(work, minutes, vocab_size=100)
    model_dir = work / "model"
    if not (model_dir / checkpoint.WEIGHTS).exists():
        untrained(model_dir, name, features / "front_end.json", tokenizer / "tokenizer.pieces")
    return model_dir, corpus


def compiled(work: Path, model_dir: Path, corpus: Path, args: argparse.Namespace, form: str, target: str) -> dict[str, Any]:
    """lower.json of a form of the model for a target; its program and integer graph are in WORK/FORM."""
    words = f"quant={args.quant}", f"calib={args.calib}", f"window={args.window}", FORMS[form]
    return lowered(work / form, target, model_dir, corpus, *words)


def accuracy(work: Path, corpus: Path, args: argparse.Namespace, form: str) -> dict[str, Any]:
    """The evaluation of a form on the test split: its quantized program, and its integer graph."""
    out = work / form / "evaluation.json"
    if not out.exists():
        stage("evaluate", "kind=program", f"window={args.window}", f"subject={work / form}", f"corpus_dir={corpus}", f"out={out}")
    return read_json(out)["accuracy"]


def sqnr_db(folder: Path, model_dir: Path, corpus: Path, count: int) -> float:
    """Signal to quantization noise of the integer graph's logits against the float model's, over the starts of `count` test utterances."""
    graph, recognizer = IntegerGraph(folder), checkpoint.load(model_dir)
    signal = noise = 0.0
    for _, cut in zip(range(count), load_cuts(corpus / "test.cuts.jsonl.gz"), strict=False):
        x = fit_window(recognizer.front_end(read_audio(cut.recording.sources[0].source)), recognizer.front_end, graph.window_frames)
        with torch.inference_mode():
            wanted = recognizer.model(x)[0]
        signal, noise = signal + wanted.square().sum().item(), noise + (wanted - graph(x[0])).square().sum().item()
    return round(10 * torch.tensor(signal / noise).log10().item(), 2)


# ---------------------------------------------------------------- parts


class Part(nn.Module):
    """A part of a network by itself, of [1, T, D]; where it is `channels_first`, it gives and mostly takes [1, D, 1, T]."""

    def __init__(self, part: Callable, *extra: torch.Tensor | None, channels_first: bool = False) -> None:
        super().__init__()
        self.part, self.channels_first, self.extras = part, channels_first, len(extra)
        for i, value in enumerate(extra):
            self.register_buffer(f"extra{i}", value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.channels_first and x.shape[2] != N_MELS:  # the features are no stream
            x = x.transpose(1, 2).unsqueeze(2)
        y = self.part(x, *(getattr(self, f"extra{i}") for i in range(self.extras)))
        return y.squeeze(2).transpose(1, 2) if self.channels_first else y


class ShiftedScores(nn.Module):
    """Scores by distance of two heads, each a convolution of the stream, and how they are shifted."""

    def __init__(self, dim: int, columns: int, shift: Callable) -> None:
        super().__init__()
        self.heads, self.shift = nn.ModuleList(nn.Conv2d(dim, columns, 1) for _ in range(2)), shift

    def forward(self, x_btd: torch.Tensor) -> torch.Tensor:
        x = x_btd.transpose(1, 2).unsqueeze(2)
        return torch.cat(self.shift(*(head(x) for head in self.heads)), dim=-1)


def shift_each(*heads: torch.Tensor) -> list[torch.Tensor]:
    return [relative_shift(head.permute(0, 2, 3, 1), head.shape[3])[:, 0] for head in heads]


def softmax_first(x: torch.Tensor) -> torch.Tensor:
    return torch.matmul(torch.softmax(torch.matmul(x, x.transpose(1, 2)), dim=-1), x)


def softmax_last(x: torch.Tensor) -> torch.Tensor:
    return attend(torch.matmul(x, x.transpose(1, 2)), x)


def parts(config: Model, window_frames: int) -> dict[str, tuple[tuple[int, int, int], nn.Module, nn.Module]]:
    """For each part the shape of its input, the part as the model has it, and as the NPU form has it."""
    model = Conformer(config, N_MELS, 129).eval()
    block, frames, dim = model.blocks[0], model.output_lengths(window_frames), config.dim
    positions_rd = relative_positions(frames, dim)
    stream, attention = (1, frames, dim), block.self_attention
    subsampling = NpuSubsampling(model.subsampling, window_frames, N_MELS, 1)
    return {
        "subsampling": ((1, window_frames, N_MELS), Part(model.subsampling), Part(subsampling, channels_first=True)),
        "layer norm": (stream, Part(nn.LayerNorm(dim)), Part(Normalise(nn.LayerNorm(dim)), channels_first=True)),
        "feed-forward": (stream, Part(block.feed_forward1), Part(NpuFeedForward(block.feed_forward1), channels_first=True)),
        "convolution module": (stream, Part(block.convolution, None, None), Part(NpuConvolution(block.convolution), channels_first=True)),
        "self-attention": (
            stream,
            Part(attention, positions_rd, None),
            Part(NpuSelfAttention(attention, positions_rd, frames), channels_first=True),
        ),
        "softmax of a head": ((1, frames, dim // config.heads), Part(softmax_first), Part(softmax_last)),
        "relative shift of two heads": (
            stream,
            ShiftedScores(dim, 2 * frames - 1, shift_each),
            ShiftedScores(dim, 2 * frames + 1, shift_two),
        ),
    }


def network_cycles(network: nn.Module, shape: tuple[int, int, int], target: Target, log: Path) -> int:
    """Cycles of a network by itself, int8 per channel, calibrated on noise."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(network.eval().requires_grad_(False), (x,), strict=True)
    quantizer = schemes.quantizer(Quant(scheme="int8_pc"), Calib(observer="minmax"), target.family, exported.graph_module)
    exported = program.reexport(program.quantize(exported, quantizer, [(x,)]), shape)
    graph = to_tosa.lower(exported, ethosu.operator_set(target), log)
    with tempfile.TemporaryDirectory() as folder:
        ethosu.compile_graph(graph.content, graph.template, target, Path(folder), log)
        found = vela_report.collect(Path(folder))
        return vela_report.npu(found[vela_report.SUMMARY], found[vela_report.PER_LAYER], 1.0)["cycles"]


def compare_parts(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Cycles of each part, as the model has it and in the NPU form."""
    config, target, window = (
        composed(f"model={args.random}").model,
        composed(f"target={args.target}").target,
        composed(f"window={args.window}").window,
    )
    table = {}
    for name, (shape, plain, npu) in parts(config, round(window.seconds * 100)).items():
        cycles = [network_cycles(network, shape, target, args.work / "parts.log") for network in (plain, npu)]
        table[name] = dict(zip(("plain_cycles", "npu_cycles"), cycles, strict=True)) | {"ratio": round(cycles[0] / cycles[1], 2)}
        print(f"{name:30} {cycles[0]:>12,} {cycles[1]:>12,} {table[name]['ratio']:>8}", file=sys.stderr, flush=True)
    return table


# ---------------------------------------------------------------- whole models


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """The whole model in both forms."""
    model_dir, corpus = (args.model, args.corpus) if args.model else random_model(args.work, args.random, args.minutes)
    result: dict[str, Any] = {"model": str(args.model or f"{args.random}, random weights"), "window": args.window, "target": args.target}
    for form in FORMS:
        found = compiled(args.work, model_dir, corpus, args, form, args.target)
        if found["status"] != "ok":
            raise SystemExit(f"{form}: {found['reason']}")
        npu = found["npu"]
        result |= {f"{form}_cycles": npu["cycles"], f"{form}_latency_ms": round(npu["latency_ms"], 2)}
        result |= {f"{form}_sram_kib": npu["sram_kib"], f"{form}_flash_kib": npu["flash_kib"], f"{form}_lowering_s": found["lowering_s"]}
        result[f"{form}_cpu_s"] = read_json(args.work / form / CPU_S)["cpu_s"]
        result |= {f"{form}_operators_cpu": npu["operators_cpu"], f"{form}_operators": sum(npu["operators_npu"].values())}
        result[f"sqnr_db_{form}"] = sqnr_db(args.work / form, model_dir, corpus, args.sqnr_utterances)
        if args.wer:
            for kind, of_kind in accuracy(args.work, corpus, args, form).items():
                result |= {f"wer_{kind}_{form}": of_kind["wer"], f"wer_ci95_{kind}_{form}": of_kind["wer_ci95"]}
        for target in args.also if form == "npu" else ():
            other = compiled(args.work, model_dir, corpus, args, form, target)
            result[target] = (
                {key: other["npu"][key] for key in ("cycles", "latency_ms", "sram_kib", "clock_hz")} if "npu" in other else other["reason"]
            )
        print(json.dumps(result, indent=2), file=sys.stderr, flush=True)
    if args.public:
        window, target = composed(f"window={args.window}").window, composed(f"target={args.target}").target
        recognizer = checkpoint.load(model_dir)
        frames = windows.frames_of(window, recognizer.front_end)
        public, shape = public_form(recognizer.model, frames), (1, frames, recognizer.front_end.n_mels)
        cycles = network_cycles(public, shape, target, args.work / "public.log")
        result |= {"public_cycles": cycles, "ratio_to_public": round(cycles / result["npu_cycles"], 2)}
    result |= {"ratio": round(result["plain_cycles"] / result["npu_cycles"], 2), "sram_kib": result["npu_sram_kib"]}
    return result | {
        "lowering_s": result["npu_lowering_s"],
        "mac_floor_cycles": read_json(args.work / "npu" / args.target / "lower.json")["npu"]["mac_floor_cycles"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for everything that is made")
    parser.add_argument("--model", type=Path, help="model directory of the train step; with --corpus")
    parser.add_argument("--corpus", type=Path, help="directory of the corpus step")
    parser.add_argument("--random", default="conformer_s", help="without --model: a file of conf/model, weights as before training")
    parser.add_argument("--minutes", type=float, default=5.0, help="without --model: of the synthetic corpus")
    for group, choice in (("quant", "int8_pc"), ("calib", "hist64"), ("window", "10s"), ("target", "u85_256")):
        parser.add_argument(f"--{group}", default=choice, help=f"a file of conf/{group}")
    parser.add_argument("--also", nargs="*", default=[], metavar="TARGET", help="further targets of the same family, for the NPU form")
    parser.add_argument("--wer", action="store_true", help="with --model: also the WER of both forms on the test split")
    parser.add_argument("--sqnr-utterances", type=int, default=4)
    parser.add_argument("--parts", action="store_true", help="the parts of a block by themselves instead of the whole model")
    parser.add_argument("--public", action="store_true", help="also compile the model as public code writes it")
    parser.add_argument("--quick", action="store_true", help="conformer_xs with random weights and a window of 4 s")
    args = parser.parse_args()
    if bool(args.model) != bool(args.corpus):
        parser.error("--model and --corpus belong together")
    if args.wer and not args.model:
        parser.error("--wer says nothing of random weights; give --model")
    if args.quick:
        args.model, args.corpus, args.random, args.window, args.wer = None, None, "conformer_xs", "4s", False
    args.work.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"parts": compare_parts(args)} if args.parts else compare(args)))


if __name__ == "__main__":
    main()
