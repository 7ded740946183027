"""One of several processes that share a step's work is killed."""

from __future__ import annotations

import os
import signal

import pytest

from earshot.errors import DataError
from earshot.parallel import ordered


def killed_at_three(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_process_that_is_killed_is_told_with_its_step():
    with pytest.raises(DataError, match=r"computing features: one of 2 processes was ended from outside, .*; use fewer jobs"):
        list(ordered(killed_at_three, range(8), jobs=2, total=8, unit="utterance", what="computing features"))
