"""The MLflow server of the script beside this file, as an object of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("mlflow_server.sh")
USER, PASSWORD = "team", "open-sesame-31415"


@dataclass
class Server:
    folder: Path
    port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        done = self._call("start", str(self.folder), str(self.port))
        if done.returncode == 77:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stderr

    def kill(self) -> None:
        self._call("kill", str(self.folder))

    def stop(self) -> None:
        self._call("stop", str(self.folder))

    def _call(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHON": sys.executable, "MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        return subprocess.run([str(SCRIPT), *words], env=environment, capture_output=True, text=True, timeout=800)
