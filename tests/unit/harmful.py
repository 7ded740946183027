"""A pickle that runs code."""

from __future__ import annotations

from pathlib import Path


class Harmful:
    """An object whose pickle writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (open, (str(self.path), "w"))
