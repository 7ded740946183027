"""Checkpoints that others trained: the imported network computes what the original does, and what cannot be imported is named."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from public_conformer import PublicConformer, as_trained
from torch import nn
from torchaudio.models import Conformer as TorchaudioConformer

from earshot.config import Imported
from earshot.errors import ArtifactError, ConfigError, EarshotError
from earshot.model.foreign import convert

FILE = Path("checkpoint.pt")
N_MELS = 41


class WithHead(nn.Module):
    """torchaudio's Conformer as people use it: a linear layer after it."""

    def __init__(self, dim: int, heads: int, hidden: int, layers: int, kernel: int, **variants) -> None:
        super().__init__()
        self.conformer = TorchaudioConformer(dim, heads, hidden, layers, kernel, **variants)
        self.head = nn.Linear(dim, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conformer(x, torch.full((len(x),), x.shape[1]))[0])


def public(dim=16, layers=1, heads=2, kernel=5, **variants) -> PublicConformer:
    torch.manual_seed(0)
    return as_trained(PublicConformer(9, N_MELS, dim, layers, heads, kernel, **variants))


def torchaudio(dim=16, heads=2, hidden=32, layers=1, kernel=5, **variants) -> WithHead:
    torch.manual_seed(0)
    return as_trained(WithHead(dim, heads, hidden, layers, kernel, **variants))


def largest_difference(original: nn.Module, n_mels: int, frames: int, state: dict | None = None, **options) -> float:
    """Of the log-probabilities of whole utterances, and of the copy for a window."""
    x = torch.randn(2, frames, n_mels, generator=torch.Generator().manual_seed(frames))
    _, _, model = convert(state or original.state_dict(), FILE, Imported(**options), n_mels)
    with torch.no_grad():
        expected = original(x).log_softmax(-1)
        outputs = [model(x), model.for_window(frames)(x)]
    assert all(output.shape == expected.shape for output in outputs)
    return max((output.log_softmax(-1) - expected).abs().max().item() for output in outputs)


@pytest.mark.parametrize("absolute", [False, True], ids=["distances", "absolute positions"])
@pytest.mark.parametrize(
    ("dim", "heads", "kernel", "factor", "layers", "frames"),
    [(16, 2, 5, 4, 2, 60), (24, 3, 7, 2, 1, 83), (20, 1, 3, 3, 2, 30), (32, 8, 31, 4, 1, 131)],
)
def test_the_public_conformer_gives_the_same_outputs(absolute, dim, heads, kernel, factor, layers, frames):
    original = public(dim, layers, heads, kernel, factor=factor, absolute=absolute)
    assert largest_difference(original, N_MELS, frames) < 1e-5


@pytest.mark.parametrize(
    ("dim", "heads", "hidden", "layers", "kernel", "frames"), [(16, 2, 32, 2, 5, 20), (24, 3, 50, 1, 31, 41), (20, 1, 10, 2, 3, 7)]
)
def test_torchaudio_s_conformer_gives_the_same_outputs(dim, heads, hidden, layers, kernel, frames):
    original = torchaudio(dim, heads, hidden, layers, kernel)
    assert largest_difference(original, dim, frames, heads=heads) < 1e-5


def test_arm_s_model_is_conformer_s():
    """num_classes=129, encoder_dim=144, 16 layers, 4 heads on 80 mel bins: 10M parameters."""
    torch.manual_seed(0)
    original = as_trained(PublicConformer(129, 80, 144, 16, 4, 31))
    name, config, model = convert(original.state_dict(), FILE, Imported(), 80)
    assert name.startswith("sooftware")
    assert (config.dim, config.layers, config.heads, config.conv_kernel) == (144, 16, 4, 31)
    assert config.feed_forward_factor == 4 and config.subsampling_channels == [144, 144] and config.positions == "relative"
    x = torch.randn(1, 200, 80)
    with torch.no_grad():
        torch.testing.assert_close(model(x).log_softmax(-1), original(x), atol=1e-4, rtol=0)


def test_a_prefix_of_a_wrapper_does_not_matter():
    original = public()
    state = {f"module.{name}": tensor for name, tensor in original.state_dict().items()}
    assert largest_difference(original, N_MELS, 40, state) < 1e-5


def test_half_precision_is_read():
    original = public().half().float()
    assert largest_difference(original, N_MELS, 40, copy.deepcopy(original).half().state_dict()) < 1e-5


def test_whole_residual_steps_are_expressed_where_they_are_said():
    original = public(step=1.0)
    assert largest_difference(original, N_MELS, 40, half_step_residual=False) < 1e-5
    assert largest_difference(original, N_MELS, 40) > 1e-2


def test_the_scale_of_the_scores_can_be_said():
    """A fork that has distances and yet divides by sqrt(dim): four heads, so that the queries count half."""
    original = public(heads=4)
    attention = original.encoder.layers[0].sequential[1].module
    state = copy.deepcopy(original.state_dict())
    with torch.no_grad():
        for parameter in (*attention.attention.query_proj.parameters(), attention.attention.u_bias, attention.attention.v_bias):
            parameter *= 0.5
    assert largest_difference(original, N_MELS, 40, state, score_scale="d_model") < 1e-5


def without(*names: str):
    return lambda state: {key: tensor for key, tensor in state.items() if key not in names}


def with_tensor(name: str, *shape: int):
    return lambda state: {**state, name: torch.zeros(shape)}


SUBSAMPLE, BLOCK = "encoder.conv_subsample.sequential.", "encoder.layers.0.sequential."
ATTENTION, CONVOLUTION = BLOCK + "1.module.attention.", BLOCK + "2.module.sequential."
BROKEN = {
    "missing": (without(ATTENTION + "key_proj.linear.bias"), r"missing .*key_proj\.linear\.bias \(16,\)"),
    "missing size": (without(ATTENTION + "u_bias"), "missing .*u_bias"),
    "missing first": (without(SUBSAMPLE + "0.weight"), r"missing .*conv_subsample\.sequential\.0\.weight"),
    "missing later": (without("encoder.layers.1.sequential.4.weight"), r"missing encoder\.layers\.1\.sequential\.4\.weight"),
    "extra": (with_tensor("encoder.layers.0.adapter.weight", 3), r"unknown encoder\.layers\.0\.adapter\.weight"),
    "misshapen": (with_tensor(ATTENTION + "out_proj.linear.weight", 16, 8), r"out_proj.* is \(16, 8\), expected \(16, 16\)"),
    "heads": (with_tensor(ATTENTION + "u_bias", 3, 5), r"\(3, 5\): its heads do not divide 16"),
    "even kernel": (with_tensor(CONVOLUTION + "4.conv.weight", 16, 1, 4), "kernel of 4 frames"),
    "another norm": (without(CONVOLUTION + "5.running_mean", CONVOLUTION + "5.running_var"), "GroupNorm or LayerNorm"),
    "old norm": (with_tensor(BLOCK + "4.gamma", 16), "releases before June 2021"),
    "transducer": (with_tensor("decoder.embedding.weight", 9, 4), "transducer"),
    "other names": (lambda state: {f"x{i}": tensor for i, tensor in enumerate(state.values())}, "no implementation that is known"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(fault):
    change, message = BROKEN[fault]
    with pytest.raises(ArtifactError, match=message) as error:
        convert(change(public(layers=2).state_dict()), FILE, Imported(), N_MELS)
    assert str(FILE) in str(error.value) and "\n" not in str(error.value)


def test_other_positions_than_sinusoids_are_refused():
    state = public(absolute=True).state_dict()
    state["encoder.layers.0.sequential.1.module.positional_encoding.pe"] = torch.randn(1, 200, 16)
    with pytest.raises(ArtifactError, match=r"positional_encoding\.pe: a table of positions other than"):
        convert(state, FILE, Imported(), N_MELS)


@pytest.mark.parametrize(
    ("original", "n_mels", "options", "message"),
    [
        (public, 80, {}, "trained on 39 to 42 mel bins"),
        (public, N_MELS, {"heads": 4}, "heads=4: .* has 2"),
        (torchaudio, 16, {}, "add heads=NUMBER"),
        (torchaudio, 16, {"heads": 3}, "heads=3: does not divide the 16 channels"),
        (torchaudio, 80, {"heads": 2}, "takes features of 16 bins"),
        (torchaudio, 16, {"heads": 2, "half_step_residual": False}, "no such choice"),
        (lambda: torchaudio(use_group_norm=True), 16, {"heads": 2}, "GroupNorm"),
        (lambda: torchaudio().conformer, 16, {"heads": 2}, "expected one linear layer .*found none"),
    ],
)
def test_what_does_not_fit_the_tensors_is_told(original, n_mels, options, message):
    with pytest.raises(EarshotError, match=message):
        convert(original().state_dict(), FILE, Imported(**options), n_mels)


def test_an_input_layer_before_torchaudio_s_conformer_is_refused():
    state = {**torchaudio().state_dict(), "project.weight": torch.zeros(16, 80), "project.bias": torch.zeros(16)}
    with pytest.raises(ArtifactError, match=r"project\.weight \(16, 80\)"):
        convert(state, FILE, Imported(heads=2), 16)


def test_absolute_positions_know_no_padding():
    _, _, model = convert(public(absolute=True).state_dict(), FILE, Imported(), N_MELS)
    with pytest.raises(ConfigError, match="positions=absolute"):
        model(torch.randn(2, 40, N_MELS), torch.tensor([40, 30]))
