"""What a compiler says goes to a file; where it fails, its last words are the reason."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from earshot.errors import LoweringError
from earshot.lower.descriptors import output_to


@contextlib.contextmanager
def compiling(log: Path) -> Iterator[None]:
    """Run a compiler with its output appended to `log`.

    Raises:
        LoweringError: the compiler failed, in whatever way.
    """
    try:
        with output_to(log):
            try:
                yield
            except (Exception, SystemExit) as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                raise
    except (Exception, SystemExit) as error:
        raise LoweringError(reason(log)) from error


def reason(log: Path, lines: int = 3) -> str:
    """The last lines of a compiler's log that say something, in one line."""
    text = log.read_text(errors="replace").splitlines()
    useful = [line.strip() for line in text if line.strip() and not line.lstrip().startswith(("File ", "Traceback", "^"))]
    return " | ".join(useful[-lines:])[:600] or "the compiler ended without a message"
