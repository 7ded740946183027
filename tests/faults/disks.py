"""Disks that are small, or that may not be written: a tmpfs, where this user may mount one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mount(*arguments: object) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"this user may not mount a file system here ({done.stderr.strip()})")


@contextlib.contextmanager
def small(folder: Path, size: str) -> Iterator[Path]:
    """`folder` as a disk of this size."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a file that could not be written may still be open


def remount(folder: Path, options: str) -> None:
    mount("-o", f"remount,{options}", folder)
