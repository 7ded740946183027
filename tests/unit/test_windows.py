"""Cutting into windows and joining: every output exactly once, on one time grid, equal to the uncut run where the context allows."""

from itertools import pairwise

import pytest
import torch

from earshot.config import Features, Window
from earshot.errors import ConfigError
from earshot.features import FrontEnd
from earshot.model.subsampling import OutputGrid
from earshot.windows import Layout, cut, frames_of, layout, run

N_MELS = 8
SILENCE = torch.full((N_MELS,), -2.0)
BY_1, BY_2, BY_4, BY_8 = (OutputGrid(stages) for stages in range(4))


def reach(outputs_of_context: int, grid: OutputGrid) -> torch.nn.Module:
    """A local toy network: subsampling as the Conformer's, then a filter over `outputs_of_context` outputs on either side."""
    torch.manual_seed(0)
    width = 2 * outputs_of_context + 1
    channels = [N_MELS, *[6] * grid.stages]
    subsampling = [layer for i, o in pairwise(channels) for layer in (torch.nn.Conv1d(i, o, 3, stride=2), torch.nn.Tanh())]
    net = torch.nn.Sequential(*subsampling, torch.nn.Conv1d(channels[-1], 5, width, padding=width // 2))
    return net.double().eval().requires_grad_(False)


def apply(net: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    return net(features.double().T[None])[0].T


BY_FOUR = [(40, 4), (40, 3), (40, 0), (41, 1), (42, 2), (43, 4), (7, 0), (64, 8)]
BY_EIGHT = [(80, 4), (81, 3), (82, 0), (83, 1), (84, 2), (85, 4), (86, 2), (87, 2), (15, 0), (128, 8)]
OTHERS = [Layout(12, 4, BY_1), Layout(21, 3, BY_2)]
LAYOUTS = [*(Layout(*cuts, BY_4) for cuts in BY_FOUR), *(Layout(*cuts, BY_8) for cuts in BY_EIGHT), *OTHERS]


@pytest.mark.parametrize("cuts", LAYOUTS, ids=str)
def test_every_length_is_covered_exactly_once_within_the_windows(cuts):
    factor, output_frames = cuts.grid.factor, cuts.grid.output_frames
    for frames in range(1, 3 * cuts.frames + 5):
        pieces = cuts.pieces(frames)
        taken = [k for piece in pieces for k in range(piece.first, piece.last)]
        assert taken == list(range(max(0, output_frames(frames)))), frames
        for piece in pieces:
            assert piece.start % factor == 0
            assert piece.first < piece.last, "no window is run for nothing"
            begin = piece.start // factor
            assert begin <= piece.first
            assert piece.last <= begin + cuts.outputs
            if frames >= cuts.frames:
                assert factor * (piece.last - 1) + 2 * factor - 2 < frames, "no output looks beyond the utterance"
        for before, piece in pairwise(pieces):
            overlap = (before.start - piece.start) // factor + cuts.outputs
            assert overlap >= cuts.overlap
            context_before, context_after = piece.first - piece.start // factor, before.start // factor + cuts.outputs - piece.first
            assert abs(context_before - context_after) <= 1, "the switch lies in the middle of the overlap"


@pytest.mark.parametrize("cuts", LAYOUTS, ids=str)
def test_a_position_independent_network_gives_the_logits_of_the_uncut_run(cuts):
    net = reach(0, cuts.grid)
    features = torch.randn(3 * cuts.frames + 4, N_MELS, generator=torch.Generator().manual_seed(1))
    for frames in range(1, len(features) + 1):
        joined = run(lambda x: apply(net, x), features[:frames], cuts, SILENCE)
        if cuts.grid.output_frames(frames) < 1:
            assert joined.shape[0] == 0
        else:
            torch.testing.assert_close(joined, apply(net, features[:frames]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [BY_4, BY_8], ids=str)
def test_context_within_half_the_overlap_is_enough(grid):
    """A network that looks 2 outputs aside is exact with 4 outputs of overlap and not with 2: both windows have context where they join."""
    net, length = reach(2, grid), 10 * grid.factor
    features = torch.randn(4 * length, N_MELS, generator=torch.Generator().manual_seed(1))
    for frames in range(length, 4 * length):
        full = apply(net, features[:frames])
        joined = run(lambda x: apply(net, x), features[:frames], Layout(length, 4, grid), SILENCE)
        torch.testing.assert_close(joined, full, rtol=0, atol=1e-12)
    assert not torch.allclose(run(lambda x: apply(net, x), features, Layout(length, 2, grid), SILENCE), apply(net, features), atol=1e-3)


def test_padding_is_silence_at_the_end_and_its_outputs_are_dropped():
    seen = []

    def program(x):
        seen.append(x)
        return torch.arange(float(BY_4.output_frames(len(x))))[:, None]

    features = torch.randn(20, N_MELS)
    joined = run(program, features, Layout(40, 4, BY_4), SILENCE)
    assert len(seen) == 1
    assert torch.equal(seen[0][:20], features)
    assert torch.equal(seen[0][20:], SILENCE.expand(20, -1))
    assert joined[:, 0].tolist() == list(range(BY_4.output_frames(20)))


def test_a_window_that_fits_is_passed_as_it_is():
    features = torch.randn(40, N_MELS)
    cuts = Layout(40, 4, BY_4)
    (piece,) = cuts.pieces(40)
    assert torch.equal(cut(features, piece, cuts, SILENCE), features)


def front_end() -> FrontEnd:
    return FrontEnd(Features(), [0.0] * 80, [1.0] * 80)


def test_lengths_in_seconds_become_frames_and_outputs():
    assert frames_of(Window(10.0, 2.0), front_end()) == 1000
    made = layout(1000, 2.0, front_end(), BY_4)
    assert (made.outputs, made.overlap) == (249, 50)
    assert layout(500, 1.5, front_end(), BY_4).overlap == 38, "rounded up to the grid"
    made = layout(1000, 2.0, front_end(), BY_8)
    assert (made.outputs, made.overlap) == (124, 25)


@pytest.mark.parametrize(("seconds", "grid"), [(0.05, BY_4), (0.06, BY_4), (0.1, BY_4), (0.14, BY_8), (0.2, BY_8)])
def test_a_window_without_room_beside_the_overlap_is_refused(seconds, grid):
    with pytest.raises(ConfigError, match="window"):
        layout(frames_of(Window(seconds, seconds / 2), front_end()), seconds / 2, front_end(), grid)
