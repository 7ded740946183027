"""A compiler in a process of its own: native code that crashes, or that is killed for memory, ends no more than itself."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from earshot.errors import LoweringError
from earshot.lower.compiler_log import compiling, reason

Result = TypeVar("Result")


def compiled(log: Path, function: Callable[..., Result], *arguments: Any) -> Result:
    """What `function`, a compiler, makes of its arguments; what it says is appended to `log`.

    Raises:
        LoweringError: it failed, in whatever way.
    """
    log.touch()
    # Forked: a new process would import for longer than most graphs take.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, log, function, arguments), daemon=True)
    process.start()
    sender.close()  # so that the pipe ends with the process
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        raise LoweringError(f"{reason(log)} | the compiler was ended by {_ending(process)}") from None
    finally:
        process.kill()
        process.join()
    if isinstance(result, LoweringError):
        raise result
    return result


def _send(sender: Connection, log: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        with compiling(log):
            result = function(*arguments)
    except LoweringError as error:
        result = error
    sender.send(result)


def _ending(process: Any) -> str:
    return signal.Signals(-process.exitcode).name if process.exitcode < 0 else f"exit status {process.exitcode}"
