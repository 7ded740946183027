"""Curves of a training: a CSV with a row for each epoch or period, that an interrupted training goes on with."""

from __future__ import annotations

import csv
from pathlib import Path

from earshot.files import atomic


def read(path: Path) -> list[dict[str, str]]:
    """The rows; none where there is no such file yet."""
    if not path.exists():
        return []
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def add(path: Path, row: dict[str, float], by: str) -> None:
    """Write `row` behind those that come before it by the column `by`: what was trained again takes the place of what was lost."""
    kept = [old for old in read(path) if int(old[by]) < row[by]]
    with atomic(path) as temporary, open(temporary, "w", newline="") as stream:
        writer = csv.DictWriter(stream, row)
        writer.writeheader()
        writer.writerows([*kept, {key: f"{value:.6g}" for key, value in row.items()}])
