"""Windows with a cache of left context: what the model computes where that is the same, and of each utterance every output once."""

import pytest
import torch
from trained_model import N_MELS, trained

from earshot.errors import ConfigError
from earshot.model.attention import relative_positions, relative_shift
from earshot.model.npu import to_npu
from earshot.model.npu.attention import shift_to_keys
from earshot.model.streaming import Streaming, StreamingConformer, normalised, silence_cache
from earshot.model.subsampling import OutputGrid
from earshot.windows import Layout, layout, run_with_cache

KERNEL = 7  # of the trained model
REACH = KERNEL // 2
BY_4 = OutputGrid(2)


def frames_of(outputs: int) -> int:
    """The input frames that give so many outputs."""
    return 4 * outputs + 3


def windows_in_turn(form: StreamingConformer, x: torch.Tensor, count: int, cache: torch.Tensor) -> list[torch.Tensor]:
    """The logits of the first `count` windows of features [1, T, n_mels]."""
    step, length, found = 4 * form.streaming.hop, frames_of(form.streaming.outputs), []
    for start in range(0, count * step, step):
        logits, cache = form(x[:, start : start + length], cache)
        found.append(logits)
    return found


@pytest.mark.parametrize("positions", ["relative", "none"])
@pytest.mark.parametrize(("hop", "lookahead"), [(10, 0), (10, 6), (7, 7)])
@torch.no_grad()
def test_one_layer_gives_what_the_model_gives_of_context_and_window_where_its_kernel_sees_the_window_alone(positions, hop, lookahead):
    """With one layer, attention needs of the context what each frame is by itself; the filtered frames there knew less of what follows."""
    model, before = trained(layers=1, positions=positions), 3
    form = StreamingConformer(model, Streaming(hop + lookahead, hop, left=before * hop))
    x = torch.randn(1, frames_of(before * hop + hop + lookahead), N_MELS)
    found = windows_in_turn(form, x, before + 1, torch.zeros(form.cache_shape))[-1]
    wanted = model(x)[:, before * hop :]
    torch.testing.assert_close(found[:, REACH:], wanted[:, REACH:], rtol=0, atol=1e-5)
    assert not torch.allclose(found[:, :REACH], wanted[:, :REACH], atol=1e-4)


@pytest.mark.parametrize(("left", "windows"), [(4, 3), (8, 3), (20, 3)])
@torch.no_grad()
def test_layer_by_layer_over_all_windows_gives_the_same(left, windows):
    """Without look-ahead each frame is computed once: a layer is done for the whole utterance before the next, by the model's parts."""
    model, hop = trained(layers=3), 8
    form = StreamingConformer(model, Streaming(hop, hop, left))
    x = torch.randn(1, frames_of(windows * hop), N_MELS)
    contexts = [(torch.randn(1, left, 24), torch.randn(1, REACH, 24)) for _ in model.blocks]
    cache = [
        normalised(norm, rows)
        for block, pair in zip(model.blocks, contexts, strict=True)
        for norm, rows in zip((block.self_attention.norm, block.convolution.norm), pair, strict=True)
    ]
    found = torch.cat(windows_in_turn(form, x, windows, torch.cat(cache, dim=1)), dim=1)
    y = model.subsampling(x)
    for block, (context, before) in zip(model.blocks, contexts, strict=True):
        y = y + 0.5 * block.feed_forward1(y)
        seen, positions = torch.cat([context, y], dim=1), relative_positions(left + hop, 24)
        y = y + each(windows, hop, left, seen, lambda part, block=block, at=positions: block.self_attention(part, at, None))
        seen = torch.cat([before, y], dim=1)
        # The model's own module begins with zeros where the context does: its first outputs are not used.
        y = y + each(windows, hop, REACH, seen, lambda part, block=block: block.convolution(part, None, None))
        y = block.norm(y + 0.5 * block.feed_forward2(y))
    torch.testing.assert_close(found, model.output(y), rtol=0, atol=1e-5)


def each(windows: int, hop: int, context: int, seen: torch.Tensor, part) -> torch.Tensor:
    """What a part of a block gives of each window with its context, joined; `seen` begins with the context of the first."""
    return torch.cat([part(seen[:, start : start + context + hop])[:, context:] for start in range(0, windows * hop, hop)], dim=1)


@torch.no_grad()
def test_more_silence_leaves_what_silence_left():
    model = trained()
    form = StreamingConformer(model, Streaming(20, 15, left=30))
    silence = torch.full((N_MELS,), -1.5)
    cache = silence_cache(form, silence, frames_of(20))
    assert cache.shape == form.cache_shape == (1, 2 * (30 + REACH), 24)
    assert cache.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.01), "behind a norm"
    _, after = form(silence.expand(1, frames_of(20), -1), cache)
    torch.testing.assert_close(after, cache, rtol=0, atol=0.02)


def test_absolute_positions_are_refused():
    with pytest.raises(ConfigError, match=r"left_context_s.*absolute"):
        StreamingConformer(trained(positions="absolute"), Streaming(20, 15, 30))


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("size", [{}, {"heads": 1}, {"heads": 4, "conv_kernel": 31}, {"positions": "none"}], ids=str)
@pytest.mark.parametrize(("outputs", "hop", "left"), [(20, 15, 30), (9, 9, 2), (1, 1, 4)])
@torch.no_grad()
def test_the_npu_form_gives_the_same_logits_and_cache_window_after_window(size, outputs, hop, left, chunks):
    model, streaming = trained(**size), Streaming(outputs, hop, left)
    form, npu = StreamingConformer(model, streaming), to_npu(model, frames_of(outputs), N_MELS, 2048, chunks, streaming)
    cache = npu_cache = torch.randn(form.cache_shape)
    for _ in range(3):
        x = torch.randn(1, frames_of(outputs), N_MELS)
        wanted, cache = form(x, cache)
        found, npu_cache = npu(x, npu_cache)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        torch.testing.assert_close(npu_cache, cache, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 5), (4, 4), (4, 5), (5, 17)])
def test_a_head_is_shifted_to_its_keys_as_the_model_shifts_it(queries, keys):
    scores = torch.randn(1, 1, queries, keys + queries - 1)
    by_column = torch.nn.functional.pad(scores, (0, 1))[:, 0].transpose(1, 2).unsqueeze(2)  # [1, columns, 1, T], as a convolution gives it
    assert torch.equal(shift_to_keys(by_column), relative_shift(scores, keys)[0])


# ---------------------------------------------------------------- windows in turn


@pytest.mark.parametrize("cuts", [Layout(43, 4, BY_4, left=5), Layout(80, 0, BY_4, left=50), Layout(61, 2, OutputGrid(3), left=1)], ids=str)
def test_windows_follow_each_other_and_give_every_output_once_before_their_look_ahead(cuts):
    for frames in range(1, 4 * cuts.frames):
        pieces, total = cuts.pieces(frames), max(0, cuts.grid.output_frames(frames))
        assert [k for piece in pieces for k in range(piece.first, piece.last)] == list(range(total))
        assert [piece.start for piece in pieces] == [cuts.hop * cuts.grid.factor * i for i in range(len(pieces))]
        for piece in pieces:
            assert piece.first * cuts.grid.factor == piece.start
            assert piece.first < piece.last <= piece.first + (cuts.hop if piece is not pieces[-1] else cuts.outputs)


def test_the_cache_goes_from_window_to_window():
    given = []

    def program(window, cache):
        given.append(cache.item())
        return torch.zeros(BY_4.output_frames(len(window)), 2), cache + 1

    cuts = Layout(43, 4, BY_4, left=5)
    for _ in range(2):
        run_with_cache(program, torch.zeros(120, N_MELS), cuts, torch.zeros(N_MELS), torch.tensor(7.0))
    windows = len(cuts.pieces(120))
    assert given == [7.0 + i for i in range(windows)] * 2, "each utterance begins with the first cache"


def test_left_context_is_rounded_up_to_outputs(front_end):
    made = layout(200, 1.0, front_end, BY_4, left_context_s=1.01)
    assert (made.left, made.hop, made.outputs) == (26, 24, 49)
