"""Weights rounded so that outputs keep most: what layers compute with them, and that the quantizers leave them as they are."""

import json

import pytest
import torch
from stage_command import run
from tiny_recognizer import noise, write_corpus, write_model
from torch import nn
from torchao.quantization.pt2e import MinMaxObserver, PerChannelMinMaxObserver

from earshot import windows
from earshot.config import Part, Quant
from earshot.model import checkpoint
from earshot.quantize import program, weights

LAYERS = {
    "linear": (lambda: nn.Linear(24, 16), (8, 24)),
    "pointwise": (lambda: nn.Conv2d(24, 16, 1), (1, 24, 1, 64)),
    "strided": (lambda: nn.Conv2d(3, 8, 3, stride=2), (1, 3, 33, 21)),
    "depthwise": (lambda: nn.Conv1d(12, 12, 7, padding=3, groups=12), (1, 12, 64)),
}  # made in the test, behind its seed


def alike(shape: tuple[int, ...]) -> torch.Tensor:
    """Inputs that go together, as those of a trained network do: without that there is nothing to make up with."""
    x = torch.randn(shape) + 2 * torch.randn_like(torch.empty(shape)[:, :1])  # much that all channels share
    return x + x.roll(1, -1) + x.roll(2, -1)


def at_nearest(weight: torch.Tensor, most: int, per_channel: bool) -> torch.Tensor:
    """As the quantizers round, by torchao's observers."""
    settings = {"dtype": torch.int8, "quant_min": -most, "quant_max": most}
    if per_channel:
        observer = PerChannelMinMaxObserver(ch_axis=0, qscheme=torch.per_channel_symmetric, **settings)
    else:
        observer = MinMaxObserver(qscheme=torch.per_tensor_symmetric, **settings)
    observer(weight)
    scale = observer.calculate_qparams()[0].view(-1, *[1] * (weight.dim() - 1))
    return (weight / scale).round().clamp(-most, most) * scale


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", LAYERS)
def test_outputs_keep_more_than_by_the_nearest_value_and_the_quantizers_change_nothing(kind, per_channel):
    make_layer, shape = LAYERS[kind]
    layer = make_layer()
    network = nn.Sequential(layer).requires_grad_(False)
    inputs = [(alike(shape),) for _ in range(6)]
    plain = layer.weight.clone()
    wanted = [network(*x) for x in inputs]
    weights.round_weights(network, Quant(scheme="a8w4", weight_bits=4, per_channel=per_channel), inputs)
    rounded = layer.weight.clone()
    assert torch.allclose(at_nearest(rounded, 7, per_channel), rounded, atol=1e-6)

    def error(weight: torch.Tensor) -> float:
        layer.weight.copy_(weight)
        return sum(float((network(*x) - y).square().sum()) for x, y in zip(inputs, wanted, strict=True))

    assert error(rounded) < 0.9 * error(at_nearest(plain, 7, per_channel))


def test_each_part_of_a_mixture_has_its_precision_and_floats_stay():
    parts = [Part(modules="blocks.0.narrow", quantize=False), Part(modules="blocks.*", weight_bits=4)]
    quant = Quant(scheme="mixed", parts=parts)
    assert not weights.precision_of(quant, "blocks.0.narrow").quantize
    assert weights.precision_of(quant, "blocks.0.widen").weight_bits == 4
    assert weights.precision_of(quant, "output").weight_bits == 8


def test_the_stage_rounds_as_calibration_asks_for(tmp_path):
    model = write_model(tmp_path / "model")
    for split in ("train", "dev", "test"):
        write_corpus(tmp_path / "corpus", [1.0, 2.0], ["GO"] * 2, split)
    given = ("calib.utterances=2", "family=host", f"model_dir={model}", f"corpus_dir={tmp_path / 'corpus'}", f"out={tmp_path / 'out'}")
    run("quantize", "quant=int8_pc", "calib=minmax64", "calib.weights=compensated", *given, "window.seconds=2", "window.overlap_s=0.5")
    assert json.loads((tmp_path / "out" / "quantize.json").read_text())["calibration"]["weights"] == "compensated"
    quantized, recognizer = program.load(tmp_path / "out"), checkpoint.load(model)
    features = windows.fit_window(quantized.front_end(noise(1.3, 7)), quantized.front_end, 200)[0]
    with torch.no_grad():
        logits = recognizer.model(features[None])[0]
    assert 10 * torch.log10(logits.square().sum() / (quantized(features) - logits).square().sum()) > 18  # dB
