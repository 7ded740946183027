"""Debian's Chromium, and the folder of the screenshots."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = Path(os.environ.get("EARSHOT_RESULTS", ROOT / "results"))
SCREENSHOTS = Path(os.environ.get("EARSHOT_SCREENSHOTS", ROOT / "results" / "screenshots"))
OFFLINE = ("background-networking", "component-update", "sync", "quic", "gpu", "dev-shm-usage")
LONGEST_MS = 240_000  # for a page, on a busy machine
DRAWN_MS = 5_000  # MLflow asks its server again and again: no moment of silence says that a page is drawn


def chromium() -> str:
    """Path of Debian's Chromium, which root gets from apt-get where it is not."""
    if not shutil.which("chromium") and os.getuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
            subprocess.run(["apt-get", *command], capture_output=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    return shutil.which("chromium") or pytest.skip("no Chromium: apt-get install chromium")


def keep(page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", timeout=LONGEST_MS)
