"""Servers that tests start on a port of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

PATIENCE_S = 800  # a machine that has other work takes minutes for what takes seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(command: list[str], health: str, output: Path, cwd: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Runs a server in a session of its own, all of which ends with the block; the block begins when the address `health` answers.

    What it starts by name comes from the environment of the tests, which need not be activated: MLflow calls `uvicorn`.

    Args:
        output: a file for what the server writes.

    Raises:
        AssertionError: it ended, or did not answer in time; what it wrote is the message.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **(environment or {})}
    with output.open("w") as stream:
        server = subprocess.Popen(command, cwd=cwd, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not _answers(health):
            assert server.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False
