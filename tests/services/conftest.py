"""An MLflow server as a team runs it, started once for this folder; where it cannot be had, the tests are skipped with the reason."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_server import PASSWORD, USER, Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one = Server(tmp_path_factory.mktemp("server"), port)
    try:
        one.start()
        yield one
    finally:
        one.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    # Longer than a busy machine takes for an answer, shorter than the stall of a faulty server.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "90")
