"""What is done to weights and ranges before a program is quantized without training, and what it changes on a trained model.

    python tests/benchmarks/weight_methods.py --model results/train/conformer_xs-synth --corpus results/corpus/synth

For each scheme and method: the signal-to-noise ratio (SQNR, dB) of the quantized program's logits against the float model's on frames of
speech, and its WER, both on the test split. Methods that are no choice of the configuration are written down here: they did not help.
Prints one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import jiwer
import torch
from steps import composed
from torch import nn
from torch.fx import GraphModule
from torchao.quantization.pt2e import HistogramObserver
from tqdm import tqdm

from earshot import windows
from earshot.config import Decode
from earshot.corpus.manifest import read_audio
from earshot.decode import decode
from earshot.evaluate import sample, utterances
from earshot.model import checkpoint
from earshot.model.npu import to_npu
from earshot.model.npu.attention import NpuSelfAttention
from earshot.model.npu.layers import NpuConvolution
from earshot.model.npu.subsampling import NpuSubsampling
from earshot.quantize import calibrate, fake, program, schemes, weights
from earshot.quantize.centring import centre_values
from earshot.quantize.observers import TableInputObserver

Inputs = list[tuple[torch.Tensor, ...]]
Change = Callable[[nn.Module, "Case"], None]


@dataclasses.dataclass
class Case:
    """A scheme, and the model that it is of."""

    quant: schemes.Quant
    calib: schemes.Calib
    recognizer: checkpoint.Recognizer
    frames: int
    inputs: Inputs

    def network(self) -> nn.Module:
        """The NPU form."""
        return to_npu(self.recognizer.model, self.frames, self.recognizer.front_end.n_mels, sram_kib=2048)


# ---------------------------------------------------------------- methods that change weights


def centre(network: nn.Module, case: Case) -> None:
    """Values of attention without their mean, as all programs of the NPU form have them."""
    centre_values(network, case.inputs)


@torch.no_grad()
def compensate(network: nn.Module, case: Case) -> None:
    """GPTQ, as calib.weights=compensated has it."""
    weights.round_weights(network, case.quant, case.inputs)


@torch.no_grad()
def clip(network: nn.Module, case: Case) -> None:
    """Nearest values within the range of each output (or of the layer) that gives the weights' least squared error."""
    most = 2 ** (case.quant.weight_bits - 1) - 1
    for layer in convolutions(network):
        weight = layer.weight.flatten(1) if case.quant.per_channel else layer.weight.flatten()[None]
        steps = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) * torch.linspace(0.5, 1, 26)[:, None, None] / most
        rounded = (weight / steps).round().clamp(-most, most) * steps
        best = (rounded - weight).square().sum(-1, keepdim=True).argmin(0, keepdim=True)
        layer.weight.copy_(rounded.gather(0, best.expand(1, *weight.shape))[0].view_as(layer.weight))


@torch.no_grad()
def correct_biases(network: nn.Module, case: Case) -> None:
    """Let biases make up for what rounding takes from the mean of each output (Nagel et al., section 4.2), over calibration."""
    most = 2 ** (case.quant.weight_bits - 1) - 1
    lost: dict[nn.Conv2d, list[torch.Tensor]] = {}

    def see(layer: nn.Conv2d, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        largest = layer.weight.abs().amax((1, 2, 3) if case.quant.per_channel else None, keepdim=True).clamp_min(1e-12)
        rounded = (layer.weight * most / largest).round() * largest / most
        found = nn.functional.conv2d(given[0], rounded, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        lost.setdefault(layer, []).append((made - found).mean((0, 2, 3)))

    run_with_hooks(network, case.inputs, see)
    for layer, means in lost.items():
        if layer.bias is not None:
            layer.bias += torch.stack(means).mean(0)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """All layers with weights of the NPU form."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def run_with_hooks(network: nn.Module, inputs: Inputs, see: Callable[..., None]) -> None:
    """Run `network` over `inputs`, showing each layer with its input and result to `see`."""
    handles = [layer.register_forward_hook(see) for layer in convolutions(network)]
    for of_window in inputs:
        network(*of_window)
    for handle in handles:
        handle.remove()


@torch.no_grad()
def equalise(network: nn.Module, case: Case) -> None:
    """Cross-layer equalization (Nagel et al., 2019, https://arxiv.org/abs/1906.04721) with the ranges of activations, as SmoothQuant has
    them (Xiao et al., 2023, https://arxiv.org/abs/2211.10438): each channel between two layers is divided by the root of its largest value
    over the largest weight that reads it, where what is between the layers passes a factor on.

    The norms of the NPU form have no gamma that could take a scale: it is in the weights of the layers behind.
    """
    largest: dict[nn.Module, torch.Tensor] = {}

    def see(module: nn.Module, _given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        found = made.abs().amax((0, 2, 3))
        largest[module] = torch.maximum(largest[module], found) if module in largest else found

    run_with_hooks(network, case.inputs, see)

    def factors(made: torch.Tensor, *readers: torch.Tensor) -> torch.Tensor:
        """What the channels of a result are divided by; `readers` are weights [out, channels, ...]."""
        read = torch.stack([weight.transpose(0, 1).flatten(1).abs().amax(1) for weight in readers]).amax(0)
        found = (made.clamp_min(1e-5) / read.clamp_min(1e-5)).sqrt()
        return found / found.log().mean().exp()

    def divide(conv: nn.Conv2d, by: torch.Tensor, first: int = 0) -> None:
        rows = slice(first, first + len(by))
        conv.weight[rows] /= by[:, None, None, None]
        if conv.bias is not None:
            conv.bias[rows] /= by

    for module in network.modules():
        if isinstance(module, NpuSelfAttention):
            width = module.head_width
            for head, (key, value) in enumerate(zip(module.keys, module.values, strict=True)):
                at = slice(head * width, (head + 1) * width)
                by = factors(largest[value], module.out.weight[:, at])
                divide(value, by)
                module.out.weight[:, at] *= by[:, None, None]
                by = (largest[module.query][at].clamp_min(1e-5) / largest[key].clamp_min(1e-5)).sqrt()
                by = by / by.log().mean().exp()
                divide(module.query, by, at.start)
                key.weight *= by[:, None, None, None]
                for position in module.positions[head : head + 1]:
                    position.weight *= by[:, None, None]
        elif isinstance(module, NpuConvolution):
            by = factors(largest[module.value], module.depthwise.weight.transpose(0, 1))
            divide(module.value, by)
            module.depthwise.weight *= by[:, None, None, None]
        elif isinstance(module, NpuSubsampling):
            readers = [*module.convs[1:], module.project]
            for conv, reader in zip(module.convs, readers, strict=True):
                weight = reader.weight
                if reader is module.project:  # reads bins of channels, the channels last
                    weight = weight.flatten(1).unflatten(1, (-1, conv.out_channels)).transpose(1, 2)
                by = factors(largest[conv], weight)
                divide(conv, by)
                reader.weight *= by.repeat(reader.in_channels // len(by))[:, None, None]


METHODS: dict[str, list[Change]] = {
    "not_centred": [],
    "plain": [centre],
    "equalised": [centre, equalise],
    "biases": [centre, correct_biases],
    "clipped": [centre, clip],
    "compensated": [centre, compensate],
}


# ---------------------------------------------------------------- measurement


def prepared(case: Case) -> GraphModule:
    """The program of the NPU form, rounded as the quantized program is: weights may be put into it, ranges observed anew."""
    exported = program.export(case.network(), case.recognizer.model, (1, case.frames, case.recognizer.front_end.n_mels))
    return fake.prepare(exported, schemes.quantizer(case.quant, case.calib, "u85", exported.graph_module, training=True))


@torch.no_grad()
def change(graph: GraphModule, case: Case, changes: Iterable[Change]) -> None:
    """Put the weights that `changes` make into a program, and observe."""
    network = case.network()
    for one in changes:
        one(network, case)
    own = network.state_dict()
    for name, parameter in graph.named_parameters():
        parameter.copy_(own[name])
    fake.observe(graph, case.inputs)


def settle_as_torchao(graph: GraphModule) -> None:
    """Find all ranges in the histograms as torchao does, those before tables too."""
    for activation in fake.activations(graph):
        if isinstance(activation.activation_post_process, TableInputObserver):
            activation.activation_post_process.__class__ = HistogramObserver
            activation.settle()


class Test:
    """The test split: features, words, and the float model's logits."""

    def __init__(self, recognizer: checkpoint.Recognizer, corpus: Path, layout: windows.Layout, count: int, seed: int) -> None:
        self.recognizer, self.layout, self.silence = recognizer, layout, recognizer.front_end.silence()
        chosen = sample(utterances(corpus / "test.cuts.jsonl.gz"), count, seed)
        self.texts = [item.reference for item in chosen]
        self.features = [recognizer.front_end(read_audio(item.audio)) for item in chosen]
        self.wanted = self.logits(recognizer.model)

    @torch.no_grad()
    def logits(self, network: nn.Module) -> list[torch.Tensor]:
        bar = tqdm(self.features, desc="test", unit="utt", leave=False, disable=None)
        return [windows.run(lambda x: network(x[None])[0], one, self.layout, self.silence) for one in bar]

    def measure(self, logits: list[torch.Tensor]) -> dict[str, float]:
        wanted, found = torch.cat(self.wanted), torch.cat(logits)
        sqnr_db = 10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum())
        words = [decode(one, self.recognizer.pieces, Decode()) for one in logits]
        same = (wanted.argmax(-1) == found.argmax(-1)).float().mean()
        return {"sqnr_db": round(float(sqnr_db), 2), "same_argmax": round(float(same), 4), "wer": round(jiwer.wer(self.texts, words), 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--corpus", type=Path, required=True, help="corpus directory")
    parser.add_argument("--schemes", nargs="+", default=["int8_pc", "int8_pt", "a8w4"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--observers", nargs="+", default=["tables"], choices=["tables", "torchao"], help="ranges before tables: theirs, or as all"
    )
    parser.add_argument("--words", nargs="+", default=["window=5s"], help="further choices: window=4s calib=minmax64")
    parser.add_argument("--utterances", type=int, default=1000)
    args = parser.parse_args()
    recognizer, cfg = checkpoint.load(args.model), composed(*args.words)
    frames = windows.frames_of(cfg.window, recognizer.front_end)
    chosen = calibrate.choose(args.corpus, cfg.calib)
    inputs = list(calibrate.inputs(tqdm(chosen, desc="features", disable=None), recognizer.front_end, frames))
    layout = windows.layout(frames, cfg.window.overlap_s, recognizer.front_end, recognizer.model.grid)
    test = Test(recognizer, args.corpus, layout, args.utterances, seed=0)
    table = [{"scheme": "float", "method": "", "observer": "", **test.measure(test.wanted)}]
    for scheme in args.schemes:
        case = Case(composed(f"quant={scheme}", *args.words).quant, cfg.calib, recognizer, frames, inputs)
        graph = prepared(case)
        for method in args.methods:
            started = time.process_time()
            change(graph, case, METHODS[method])
            for observer in sorted(args.observers):
                if observer == "torchao":
                    settle_as_torchao(graph)
                row = {"scheme": scheme, "method": method, "observer": observer, **test.measure(test.logits(graph))}
                table.append({**row, "cpu_s": round(time.process_time() - started, 1)})
                print(json.dumps(table[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"model": str(args.model), "utterances": len(test.texts), "rows": table}))


if __name__ == "__main__":
    main()
