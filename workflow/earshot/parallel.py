"""A function over many items in several processes: in order, with bounded memory and a progress bar."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import torch
from tqdm import tqdm

from earshot.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 8  # items per process that may be under way or waiting to be taken


PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def _start() -> None:
    # One thread each: as many processes as cores run already, and sums come out the same whatever `jobs` is.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if sys.platform == "linux":  # a parent that was killed outright leaves no process behind
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ordered(
    function: Callable[[Item], Result], items: Iterable[Item], *, jobs: int, total: int | None, unit: str, what: str
) -> Iterator[Result]:
    """`function(item)` of each item, in the order of `items`; an error of the function is raised here.

    Raises:
        DataError: a process was killed.
    """
    pending: deque = deque()
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("fork"), initializer=_start)
    with pool, tqdm(total=total, desc=what, unit=unit, disable=None) as bar:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= AHEAD * jobs:
                    yield pending.popleft().result()
                    bar.update()
            while pending:
                yield pending.popleft().result()
                bar.update()
        except BrokenProcessPool:
            raise DataError(f"{what}: one of {jobs} processes was ended from outside, as for lack of memory; use fewer jobs") from None
        finally:
            for future in pending:
                future.cancel()
