"""What a batch is changed by before a training hears it."""

from __future__ import annotations

import random

import pytest
import torch

from earshot.config import Train
from earshot.train.augment import spec_augment, with_silence

SPEECH_BTF = torch.full((64, 400, 80), 3.0)  # nothing of it is the mean, which masks are filled with


def masked_runs(along: torch.Tensor) -> list[int]:
    """The lengths of the runs of masked places."""
    changes = torch.diff(torch.cat([torch.zeros(1), along.float(), torch.zeros(1)]))
    return (torch.nonzero(changes < 0) - torch.nonzero(changes > 0)).flatten().tolist()


@pytest.mark.parametrize(
    ("settings", "axis", "widest"), [({"freq_masks": 0, "time_masks": 1}, 1, 20), ({"freq_masks": 1, "time_masks": 0}, 0, 20)]
)
def test_a_mask_hides_one_stretch_no_wider_than_asked_for(settings, axis, widest):
    config = Train(freq_mask_bins=20, time_mask_fraction=0.05, **settings)
    hidden = spec_augment(SPEECH_BTF, config) == 0
    runs = [masked_runs(one.all(axis)) for one in hidden]
    assert all(len(run) <= 1 and sum(run) <= widest for run in runs)
    widths = {sum(run) for run in runs}
    assert len(widths) > 5, "other ones for each utterance"
    assert all(torch.equal(one, one.all(axis, keepdim=True).expand_as(one)) for one in hidden), "whole rows or columns"


def test_as_many_masks_as_asked_for_and_the_rest_is_as_it_was():
    config = Train(freq_masks=0, time_masks=8, time_mask_fraction=0.05)
    heard = spec_augment(SPEECH_BTF, config)
    hidden = (heard == 0).all(2)
    assert torch.equal(heard[~hidden], SPEECH_BTF[~hidden])
    most = max(len(masked_runs(one)) for one in hidden)
    assert 4 <= most <= 8, "some of eight overlap or are empty"
    assert 0.1 < hidden.float().mean() < 8 * 0.05


def test_without_masks_nothing_is_hidden():
    assert torch.equal(spec_augment(SPEECH_BTF, Train(freq_masks=0, time_masks=0)), SPEECH_BTF)
    assert torch.equal(spec_augment(SPEECH_BTF[:, :15], Train(freq_masks=0, time_mask_fraction=0.05)), SPEECH_BTF[:, :15]), (
        "no mask is that short"
    )


def test_silence_follows_the_batch(front_end):
    random.seed(0)
    lengths = {with_silence(SPEECH_BTF, Train(silence_max_s=1.0), front_end).shape[1] - 400 for _ in range(20)}
    assert len(lengths) > 5 and min(lengths) >= 0 and max(lengths) <= 100
    longer = with_silence(SPEECH_BTF, Train(silence_max_s=1.0), front_end)
    assert torch.equal(longer[:, :400], SPEECH_BTF)
    assert torch.equal(longer[5, -1], front_end.silence().flatten())
