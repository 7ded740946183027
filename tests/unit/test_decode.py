"""CTC collapse rules and the way from pieces to words, by hand-written cases."""

import pytest
import torch

from earshot.config import Decode
from earshot.decode import best_path, decode, text

PIECES = ["<blank>", "<unk>", "▁TURN", "▁ON", "▁THE", "▁LIGHT", "S", "▁", "A", "T"]


def frames(*ids: int, outputs: int = len(PIECES)) -> torch.Tensor:
    """Logits whose maximum in frame t is ids[t]."""
    return torch.nn.functional.one_hot(torch.tensor(ids, dtype=torch.long), outputs).float()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([], []),
        ([0, 0, 0], []),
        ([2, 2, 2], [2]),  # repetitions are one output
        ([2, 0, 2], [2, 2]),  # unless a blank stands between
        ([0, 2, 2, 0, 0, 3, 0], [2, 3]),
        ([2, 3, 2], [2, 3, 2]),
        ([6, 6, 0, 6, 6], [6, 6]),
        ([3], [3]),
    ],
)
def test_repetitions_merge_and_blanks_vanish(path, expected):
    assert best_path(frames(*path) if path else torch.zeros(0, len(PIECES))) == expected


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], ""),
        ([2, 3, 4, 5, 6], "TURN ON THE LIGHTS"),
        ([6, 3], "S ON"),  # a first piece that does not start a word
        ([7, 8, 9, 7, 9], "AT T"),  # the bare word mark
        ([7, 7, 3], "ON"),
        ([2, 1, 3], "TURN ON"),  # <unk> has no text
    ],
)
def test_pieces_become_words(ids, words):
    assert text(ids, PIECES) == words


def test_log_probabilities_and_logits_decode_alike():
    logits = torch.randn(50, len(PIECES), generator=torch.Generator().manual_seed(0)) * 3
    for penalty in (0.0, 1.5):
        assert best_path(logits, penalty) == best_path(logits.log_softmax(dim=-1), penalty)


def test_blank_penalty_trades_blanks_for_outputs_and_leaves_its_input_alone():
    logits = frames(2, 0, 3)
    logits[1, 5] = 0.5  # the blank leads by 0.5
    before = logits.clone()
    assert decode(logits, PIECES, Decode()) == "TURN ON"
    assert decode(logits, PIECES, Decode(blank_penalty=0.4)) == "TURN ON"
    assert decode(logits, PIECES, Decode(blank_penalty=0.6)) == "TURN LIGHT ON"
    assert torch.equal(logits, before)


def test_no_frames_give_no_words():
    assert decode(torch.zeros(0, 1), PIECES, Decode(blank_penalty=1.0)) == ""
