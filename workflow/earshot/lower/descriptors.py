"""Where native code writes: past sys.stdout and sys.stderr, to the descriptors 1 and 2 themselves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_libc = ctypes.CDLL(None)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    _libc.fflush(None)


@contextlib.contextmanager
def output_to(path: str | Path) -> Iterator[None]:
    """Send all that this process writes, by Python or by native code, to a file until the block ends."""
    _flush()
    saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    try:
        with open(path, "a", buffering=1) as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            for descriptor, _ in saved:
                os.dup2(file.fileno(), descriptor)
            try:
                yield
            finally:
                _flush()
    finally:
        for descriptor, original in saved:
            os.dup2(original, descriptor)
            os.close(original)
