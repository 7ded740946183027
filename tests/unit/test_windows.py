"""Cutting into windows and joining: every output exactly once, on one time grid, equal to the uncut run where the context allows."""

from itertools import pairwise

import pytest
import torch

from earshot.config import Features, Window
from earshot.errors import ConfigError
from earshot.features import FrontEnd
from earshot.model.subsampling import FACTOR, output_frames
from earshot.windows import Layout, cut, frames_of, layout, run

N_MELS = 8
SILENCE = torch.full((N_MELS,), -2.0)


def reach(outputs_of_context: int) -> torch.nn.Module:
    """A local toy network: subsampling by 4 as the Conformer's, then a filter over `outputs_of_context` outputs on either side."""
    torch.manual_seed(0)
    width = 2 * outputs_of_context + 1
    net = torch.nn.Sequential(
        torch.nn.Conv1d(N_MELS, 6, 3, stride=2),
        torch.nn.Tanh(),
        torch.nn.Conv1d(6, 6, 3, stride=2),
        torch.nn.Tanh(),
        torch.nn.Conv1d(6, 5, width, padding=width // 2),
    )
    return net.double().eval().requires_grad_(False)


def apply(net: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    return net(features.double().T[None])[0].T


LAYOUTS = [Layout(40, 4), Layout(40, 3), Layout(40, 0), Layout(41, 1), Layout(42, 2), Layout(43, 4), Layout(7, 0), Layout(64, 8)]


@pytest.mark.parametrize("cuts", LAYOUTS, ids=str)
def test_every_length_is_covered_exactly_once_within_the_windows(cuts):
    for frames in range(1, 3 * cuts.frames + 5):
        pieces = cuts.pieces(frames)
        taken = [k for piece in pieces for k in range(piece.first, piece.last)]
        assert taken == list(range(max(0, output_frames(frames)))), frames
        for piece in pieces:
            assert piece.start % FACTOR == 0
            assert piece.first < piece.last, "no window is run for nothing"
            begin = piece.start // FACTOR
            assert begin <= piece.first
            assert piece.last <= begin + cuts.outputs
            if frames >= cuts.frames:
                assert FACTOR * (piece.last - 1) + 6 < frames, "no output looks beyond the utterance"
        for before, piece in pairwise(pieces):
            overlap = (before.start - piece.start) // FACTOR + cuts.outputs
            assert overlap >= cuts.overlap
            context_before, context_after = piece.first - piece.start // FACTOR, before.start // FACTOR + cuts.outputs - piece.first
            assert abs(context_before - context_after) <= 1, "the switch lies in the middle of the overlap"


@pytest.mark.parametrize("cuts", LAYOUTS, ids=str)
def test_a_position_independent_network_gives_the_logits_of_the_uncut_run(cuts):
    net = reach(0)
    features = torch.randn(3 * cuts.frames + 4, N_MELS, generator=torch.Generator().manual_seed(1))
    for frames in range(1, len(features) + 1):
        joined = run(lambda x: apply(net, x), features[:frames], cuts, SILENCE)
        if output_frames(frames) < 1:
            assert joined.shape[0] == 0
        else:
            torch.testing.assert_close(joined, apply(net, features[:frames]), rtol=0, atol=1e-12)


def test_context_within_half_the_overlap_is_enough():
    """A network that looks 2 outputs aside is exact with 4 outputs of overlap and not with 2: both windows have context where they join."""
    net = reach(2)
    features = torch.randn(160, N_MELS, generator=torch.Generator().manual_seed(1))
    for frames in range(40, 160):
        full = apply(net, features[:frames])
        torch.testing.assert_close(run(lambda x: apply(net, x), features[:frames], Layout(40, 4), SILENCE), full, rtol=0, atol=1e-12)
    assert not torch.allclose(run(lambda x: apply(net, x), features, Layout(40, 2), SILENCE), apply(net, features), atol=1e-3)


def test_padding_is_silence_at_the_end_and_its_outputs_are_dropped():
    seen = []

    def program(x):
        seen.append(x)
        return torch.arange(float(output_frames(len(x))))[:, None]

    features = torch.randn(20, N_MELS)
    joined = run(program, features, Layout(40, 4), SILENCE)
    assert len(seen) == 1
    assert torch.equal(seen[0][:20], features)
    assert torch.equal(seen[0][20:], SILENCE.expand(20, -1))
    assert joined[:, 0].tolist() == list(range(output_frames(20)))


def test_a_window_that_fits_is_passed_as_it_is():
    features = torch.randn(40, N_MELS)
    (piece,) = Layout(40, 4).pieces(40)
    assert torch.equal(cut(features, piece, Layout(40, 4), SILENCE), features)


def front_end() -> FrontEnd:
    return FrontEnd(Features(), [0.0] * 80, [1.0] * 80)


def test_lengths_in_seconds_become_frames_and_outputs():
    assert frames_of(Window(10.0, 2.0), front_end()) == 1000
    made = layout(1000, 2.0, front_end())
    assert (made.outputs, made.overlap) == (249, 50)
    assert layout(500, 1.5, front_end()).overlap == 38, "rounded up to the grid"


@pytest.mark.parametrize("seconds", [0.05, 0.06, 0.1])
def test_a_window_without_room_beside_the_overlap_is_refused(seconds):
    with pytest.raises(ConfigError, match="window"):
        layout(frames_of(Window(seconds, seconds / 2), front_end()), seconds / 2, front_end())
