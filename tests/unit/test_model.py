"""The Conformer: padding never changes a result, and its parts compute what the papers say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from earshot.config import Model
from earshot.errors import ArtifactError, ConfigError
from earshot.model import Conformer, checkpoint
from earshot.model.attention import Attention, relative_positions, relative_shift
from earshot.model.conformer import Depthwise, SpeechBatchNorm
from earshot.model.dropout import Dropout
from earshot.model.subsampling import ConvSubsampling
from earshot.tokenizer import write_pieces

TINY = Model(dim=16, layers=2, heads=2, conv_kernel=7, subsampling_channels=[4, 4])


CHANNELS = {2: [4], 4: [4, 4], 8: [4, 6, 4]}  # by the factor of the subsampling


def trained_like(config: Model, n_mels: int = 80) -> Conformer:
    torch.manual_seed(0)
    model = Conformer(config, n_mels, outputs=9)
    # Statistics as after a training: fresh ones (0 and 1) would hide a wrong order of the layers.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def model() -> Conformer:
    return trained_like(TINY)


@pytest.fixture(params=CHANNELS, ids="by {}".format)
def any_factor(request) -> Conformer:
    return trained_like(replace(TINY, subsampling_channels=CHANNELS[request.param]))


@pytest.mark.parametrize("frames", [15, 16, 50, 51, 52, 53, 54, 55, 56, 57, 199])
def test_padding_never_changes_a_result(any_factor, frames):
    model, x = any_factor, torch.randn(3, 200, 80)
    lengths = torch.tensor([200, frames, 120])
    alone = model(x[1:2, :frames])
    padded = model(x, lengths)
    assert alone.shape[1] == model.output_lengths(frames)
    torch.testing.assert_close(padded[1, : alone.shape[1]], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=str)
def test_padding_never_changes_training(channels):
    """In training mode too: batch statistics leave the padding out."""
    model = Conformer(Model(dim=16, layers=1, heads=2, conv_kernel=7, subsampling_channels=channels, dropout=0.0), 80, 9).train()
    x, lengths = torch.randn(2, 100, 80), torch.tensor([100, 60])
    longer = torch.cat([x, torch.full((2, 40, 80), 7.0)], dim=1)
    first, second = model(x, lengths), model(longer, lengths)
    valid = model.output_lengths(60)
    torch.testing.assert_close(first[1, :valid], second[1, :valid], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first[0], second[0, : first.shape[1]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("channels", "frames"), [([4], 499), ([4, 4], 249), ([4, 4, 4], 124)])
def test_ten_seconds_become_so_many_output_frames(channels, frames):
    assert trained_like(replace(TINY, subsampling_channels=channels))(torch.randn(1, 1000, 80)).shape == (1, frames, 9)


def test_without_subsampling_the_features_go_to_the_blocks():
    model = trained_like(replace(TINY, subsampling_channels=[]), n_mels=16)
    assert model(torch.randn(1, 50, 16)).shape == (1, 50, 9)
    assert not list(model.subsampling.parameters())


@pytest.mark.parametrize(
    ("channels", "n_mels", "reason"),
    [([], 80, "n_mels=80 must equal model.dim=16"), ([4] * 4, 12, "4 convolutions"), ([4, 0], 80, "at least 1")],
)
def test_subsampling_that_does_not_fit_is_refused(channels, n_mels, reason):
    with pytest.raises(ConfigError, match=reason):
        Conformer(replace(TINY, subsampling_channels=channels), n_mels, 9)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_an_output_looks_at_the_frames_from_its_place_on_the_grid(factor):
    """Output k depends on the input frames from factor * k on, 2 * factor - 1 of them, and on no other."""
    channels = {1: [], **CHANNELS}[factor]
    subsampling = ConvSubsampling(16, channels, 16)
    x = torch.rand(1, 40, 16, requires_grad=True)
    k = 2
    for conv in subsampling.convs:
        torch.nn.init.uniform_(conv.weight, 0.1, 1.0)  # and the input is positive: no ReLU cuts a path
    subsampling(x)[0, k].abs().sum().backward()
    touched = x.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    assert touched == list(range(factor * k, factor * k + 2 * factor - 1)) and subsampling.grid.factor == factor


PARTS = {
    "subsampling": (lambda: ConvSubsampling(20, [4, 6], 16), (3, 50, 20), ()),
    "attention": (
        lambda: Attention(16, 2, dropout=0.0),
        (3, 20, 16),
        (relative_positions(20, 16), torch.arange(20) < torch.tensor([[20], [9], [1]])),
    ),
    "attention without positions": (lambda: Attention(16, 2, dropout=0.0, positions=False), (3, 20, 16), (None, None)),
    "depthwise filter": (lambda: Depthwise(16, 7), (3, 16, 20), ()),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_one_function_in_training_and_after_it(part):
    """Training has forms of its own, which are quicker."""
    torch.manual_seed(0)
    make, shape, others = PARTS[part]
    layer, x = make(), torch.randn(shape, requires_grad=True)
    results = [layer.train(mode)(x, *others) for mode in (True, False)]
    torch.testing.assert_close(*results)
    wanted = [x, *layer.parameters()]
    gradients = [torch.autograd.grad(y.square().sum(), wanted) for y in results]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_batch_statistics_are_those_of_speech():
    torch.manual_seed(0)
    x, speech = torch.randn(3, 16, 20, requires_grad=True), torch.arange(20) < torch.tensor([[20], [9], [1]])
    layer, library = SpeechBatchNorm(16).train(), torch.nn.BatchNorm1d(16).train()
    results = [layer(x, speech).transpose(1, 2)[speech], library(x.transpose(1, 2)[speech])]
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(y.pow(3).sum(), x)[0] for y in results), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.running_mean, library.running_mean)
    torch.testing.assert_close(layer.running_var, library.running_var * 29 / 30 + 0.9 / 30)  # PyTorch divides by n - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.003])
def test_dropout_drops_as_often_as_asked_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    ones = torch.ones(3, 251, 997, dtype=dtype, requires_grad=True)
    dropped = Dropout(p)(ones)
    dropped.sum().backward()
    dropped = dropped.detach()
    assert dropped.dtype == dtype and torch.equal(ones.grad, dropped)  # what is dropped does not learn either
    assert (dropped == 0).float().mean() == pytest.approx(p, rel=0.1)
    assert dropped.float().mean() == pytest.approx(1, abs=0.01)
    assert torch.equal(Dropout(p).eval()(ones), ones)
    assert Dropout(0.99999)(ones).isfinite().all()


def test_training_skips_later_blocks_more_often_than_earlier_ones():
    """With stochastic depth, some utterances of a batch leave a block as they came in; a trained model skips nothing."""
    config = replace(TINY, dropout=0.0)
    whole, shallow = trained_like(config), trained_like(replace(config, stochastic_depth=0.6))
    x = torch.randn(1, 40, 80).expand(400, -1, -1)
    for model in (whole, shallow):  # all utterances are the same, so that the statistics of the batch are the same too
        model.train()
        for block in model.blocks:
            block.convolution.batch_norm.eval()
    pairs = zip(whole.logits_after([1, 2], x), shallow.logits_after([1, 2], x), strict=True)
    kept = [torch.isclose(one, other, atol=1e-5).flatten(1).all(1) for one, other in pairs]
    assert kept[0].float().mean() == pytest.approx(0.7, abs=0.1)
    assert kept[1].float().mean() == pytest.approx(0.7 * 0.4, abs=0.1)
    assert torch.equal(shallow.eval()(x[:1]), whole.eval()(x[:1]))


def test_without_positions_padding_changes_nothing_and_the_order_of_far_frames_neither():
    config = replace(TINY, positions="none", subsampling_channels=[], conv_kernel=3, layers=1)
    model, x = trained_like(config, n_mels=16), torch.randn(1, 40, 16)
    padded = model(torch.cat([x, torch.ones(1, 9, 16)], dim=1), torch.tensor([40]))
    torch.testing.assert_close(padded[:, :40], model(x), atol=1e-5, rtol=1e-4)
    swapped = torch.cat([x[:, :20], x[:, 30:], x[:, 20:30]], dim=1)  # the kernel of the first ten outputs does not reach so far
    torch.testing.assert_close(model(swapped)[:, :10], model(x)[:, :10], atol=1e-5, rtol=1e-4)


def test_relative_shift_puts_each_key_at_its_distance():
    t = 5
    scores = torch.randn(2, 3, t, 2 * t - 1)
    shifted = relative_shift(scores, keys=scores.shape[2])
    for query in range(t):
        for key in range(t):
            distance = query - key  # column 0 is distance t - 1
            torch.testing.assert_close(shifted[..., query, key], scores[..., query, t - 1 - distance])


def test_positions_depend_on_the_distance_alone():
    short, long = relative_positions(3, 16), relative_positions(10, 16)
    torch.testing.assert_close(long[7:12], short)


def test_a_window_s_copy_computes_the_same(any_factor):
    model = any_factor
    x = torch.randn(1, 120, 80)
    model(torch.randn(1, 300, 80))  # a longer utterance before has grown the table of positions
    window = model.for_window(120)
    assert window.positions_rd.shape[0] == 2 * model.output_lengths(120) - 1
    torch.testing.assert_close(window(x), model(x))


def test_a_window_without_output_is_refused(model):
    with pytest.raises(ConfigError, match="too short"):
        model.for_window(4)


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match="heads"):
        Model(dim=30, heads=4)


@pytest.fixture
def model_dir(model, tmp_path, front_end):
    front_end.save(tmp_path / "front_end.json")
    write_pieces(tmp_path / "pieces", ["<blank>", "<unk>", *"▁ABCDEF"])
    config = {"model": {k: getattr(TINY, k) for k in TINY.__dataclass_fields__}}
    checkpoint.save(tmp_path / "model", model.state_dict(), config, tmp_path / "front_end.json", tmp_path / "pieces")
    return tmp_path / "model"


def test_a_checkpoint_gives_back_the_model(model, model_dir):
    x = torch.randn(1, 60, 80)
    torch.testing.assert_close(checkpoint.load(model_dir).model(x), model(x))


def test_a_truncated_checkpoint_is_named(model_dir):
    weights = model_dir / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors.*damaged"):
        checkpoint.load(model_dir)


def test_a_foreign_tokenizer_is_refused(model_dir):
    write_pieces(model_dir / "tokenizer.pieces", ["<blank>", "<unk>", *"▁ABCDEG"])
    with pytest.raises(ArtifactError, match=r"tokenizer\.pieces"):
        checkpoint.load(model_dir)


def test_weights_of_another_model_are_named(model_dir):
    other = Conformer(Model(dim=24, layers=2, heads=2, conv_kernel=7, subsampling_channels=[4, 4]), 80, 9)
    weights, _ = checkpoint.read_weights(model_dir / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"another model.*expected \(24"):
        checkpoint.load_weights(other, weights, model_dir)


def test_the_logits_after_all_blocks_are_the_model_s(model):
    x, lengths = torch.randn(2, 100, 80), torch.tensor([100, 60])
    first, last = model.logits_after([1, 2], x, lengths)
    assert torch.equal(last, model(x, lengths))
    assert first.shape == last.shape and not torch.allclose(first, last)
