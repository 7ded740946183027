"""The NPU form: each rewrite computes what it replaces, the whole what the trained model computes; what it cannot do it refuses."""

import pytest
import torch
from torch import nn
from trained_model import N_MELS, trained

from earshot.errors import ArtifactError, ConfigError
from earshot.model.attention import relative_positions, relative_shift
from earshot.model.npu import subsampling, to_npu
from earshot.model.npu.attention import NpuSelfAttention, attend, by_distance, by_frame, largest, shift_one, shift_two
from earshot.model.npu.folding import Affine, depthwise_with_batch_norm, gain, pointwise
from earshot.model.npu.layers import Normalise, NpuConvolution, NpuFeedForward
from earshot.model.subsampling import OutputGrid


def stream(dim: int, frames: int) -> torch.Tensor:
    """A stream [1, D, 1, T] without mean over its channels."""
    x = torch.randn(1, dim, 1, frames, generator=torch.Generator().manual_seed(1))
    return x - x.mean(1, keepdim=True)


def as_btd(x: torch.Tensor) -> torch.Tensor:
    return x.squeeze(2).transpose(1, 2)


def centred(y_btd: torch.Tensor) -> torch.Tensor:
    return y_btd - y_btd.mean(-1, keepdim=True)


SIZES = [
    {},
    {"heads": 1},
    {"heads": 3},
    {"dim": 40, "heads": 5, "layers": 1},
    {"conv_kernel": 31, "feed_forward_factor": 2},
    {"subsampling_channels": [4, 6, 8]},
    {"subsampling_channels": [5]},
    {"subsampling_channels": [], "dim": 80, "heads": 4},
    {"positions": "none"},
    {"positions": "absolute", "heads": 3},
    {"dim": 144, "heads": 4, "layers": 1, "subsampling_channels": [32, 32]},
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("frames", [200, 333, 1000])
def test_the_npu_form_computes_what_the_trained_model_computes(size, frames):
    model = trained(**size)
    x = torch.randn(1, frames, N_MELS, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = model(x)
        for chunks in (1, 3):
            found = to_npu(model, frames, N_MELS, sram_kib=2048, chunks=chunks)(x)
            assert found.shape == wanted.shape
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_an_output_layer_for_the_cpu_computes_the_same():
    model = trained()
    x = torch.randn(1, 200, N_MELS, generator=torch.Generator().manual_seed(2))
    found = to_npu(model, 200, N_MELS, 2048, cpu_output=True)
    assert isinstance(found.output, nn.Linear)
    torch.testing.assert_close(found(x), model(x), rtol=0, atol=1e-4)


def test_a_window_of_one_output_has_an_npu_form():
    model = trained()
    x = torch.randn(1, 7, N_MELS, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(to_npu(model, 7, N_MELS, 2048)(x), model(x), rtol=0, atol=1e-4)


# ---------------------------------------------------------------- the rewrites one by one


def test_a_norm_is_folded_into_the_layer_behind_it():
    norm, linear = trained().blocks[0].feed_forward1.norm, trained().blocks[0].feed_forward1.widen
    x = stream(24, 9)
    found = pointwise(Affine.of(linear).after_norm(norm))(Normalise(norm)(x))
    torch.testing.assert_close(as_btd(found), linear(norm(as_btd(x))), rtol=0, atol=1e-5)


def test_the_gain_of_a_norm_is_a_map():
    norm = trained().blocks[0].norm
    x = stream(24, 9)
    torch.testing.assert_close(as_btd(pointwise(gain(norm))(Normalise(norm)(x))), norm(as_btd(x)), rtol=0, atol=1e-5)


def test_what_writes_to_the_stream_has_no_mean_and_nothing_else_is_lost():
    linear = trained().blocks[0].feed_forward1.narrow
    x = torch.randn(1, linear.in_features, 1, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(as_btd(pointwise(Affine.of(linear).centred())(x)), centred(linear(as_btd(x))), rtol=0, atol=1e-5)


def test_a_batch_norm_is_folded_into_the_depthwise_convolution():
    part = trained().blocks[0].convolution
    x = stream(24, 20)
    found = depthwise_with_batch_norm(part.depthwise, part.batch_norm)(x).squeeze(2)
    torch.testing.assert_close(found, part.batch_norm(part.depthwise(x.squeeze(2)), None), rtol=0, atol=1e-5)


def test_feed_forward_and_convolution_are_those_of_the_model():
    block, x = trained().blocks[0], stream(24, 20)
    torch.testing.assert_close(
        as_btd(NpuFeedForward(block.feed_forward1)(x)), centred(0.5 * block.feed_forward1(as_btd(x))), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(
        as_btd(NpuConvolution(block.convolution)(x)), centred(block.convolution(as_btd(x), None, None)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("heads", [1, 2, 3, 4])
def test_attention_is_that_of_the_model(heads):
    part, x = trained(heads=heads).blocks[0].self_attention, stream(24, 11)
    positions_rd = relative_positions(11, 24)
    wanted = centred(part(as_btd(x), positions_rd, None))
    torch.testing.assert_close(as_btd(NpuSelfAttention(part, positions_rd, 11)(x)), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 249])
def test_the_maximum_by_halves_is_the_maximum(length):
    scores = torch.randn(1, 4, length, generator=torch.Generator().manual_seed(length))
    assert torch.equal(largest(scores), scores.amax(-1, keepdim=True))


def test_the_softmax_that_is_normalised_last_is_the_softmax():
    random = torch.Generator().manual_seed(1)
    scores, values = 5 * torch.randn(1, 7, 7, generator=random), torch.randn(1, 7, 3, generator=random)
    torch.testing.assert_close(attend(scores, values), scores.softmax(-1) @ values)


@pytest.mark.parametrize("frames", [1, 2, 5, 12])
def test_two_heads_are_shifted_as_the_model_shifts_them(frames):
    random = torch.Generator().manual_seed(frames)
    queries, positions = torch.randn(2, frames, 4, generator=random), torch.randn(2, 2 * frames - 1, 4, generator=random)
    wanted = relative_shift((queries @ positions.transpose(1, 2)).unsqueeze(0), frames)[0]
    by_head = [
        pointwise(Affine(by_distance(p).double(), torch.zeros(2 * frames + 1)))(q.T[None, :, None])
        for q, p in zip(queries, positions, strict=True)
    ]
    for found, expected in zip(shift_two(*by_head), wanted, strict=True):
        torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_head_of_absolute_positions_is_shifted_as_the_model_shifts_it(frames):
    random = torch.Generator().manual_seed(frames)
    query, positions = torch.randn(frames, 4, generator=random), torch.randn(frames, 4, generator=random)
    wanted = relative_shift((query @ positions.T)[None, None], frames)[0]
    scores = pointwise(Affine(by_frame(positions).double(), torch.zeros(frames + 1)))(query.T[None, :, None])
    torch.testing.assert_close(shift_one(scores), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("outputs", "chunks"), [(1, 1), (7, 3), (249, 3), (16, 16)])
def test_the_pieces_of_time_are_all_of_the_window(outputs, chunks):
    pieces = subsampling.time_chunks(outputs, chunks)
    assert [frame for first, end in pieces for frame in range(first, end)] == list(range(outputs))
    grid = OutputGrid(2)
    for first, end in pieces:
        begin, stop = subsampling.input_span(first, end, grid)
        assert grid.output_frames(stop - begin) == end - first and begin == first * grid.factor


# ---------------------------------------------------------------- budgets and refusals


def test_a_smaller_budget_cuts_the_subsampling_into_more_pieces():
    model = trained(subsampling_channels=[144, 144])
    pieces = [len(to_npu(model, 1000, N_MELS, sram_kib=kib).subsampling.spans) for kib in (8192, 2048, 1024)]
    assert pieces[0] == 1 < pieces[1] < pieces[2]


def test_a_budget_that_cannot_be_met_is_told_with_the_least_that_can():
    with pytest.raises(ConfigError, match=r"model\.npu_sram_kib=50: .* takes about \d+ KiB even in 16 pieces"):
        to_npu(trained(subsampling_channels=[144, 144]), 1000, N_MELS, sram_kib=50)


def test_a_window_without_an_output_is_refused():
    with pytest.raises(ConfigError, match="window of 6 frames is too short"):
        to_npu(trained(), 6, N_MELS, 2048)


def test_a_part_that_no_rewrite_knows_is_refused_by_name():
    model = trained()
    model.blocks[1].feed_forward2.norm = nn.RMSNorm(24)
    with pytest.raises(ArtifactError, match=r"blocks\.1\.feed_forward2\.norm: RMSNorm has no NPU form.*npu_form=false"):
        to_npu(model, 200, N_MELS, 2048)
    model = trained()
    model.blocks[0].norm = nn.LayerNorm(24, elementwise_affine=False)
    with pytest.raises(ArtifactError, match=r"blocks\.0\.norm: LayerNorm has no NPU form"):
        to_npu(model, 200, N_MELS, 2048)
