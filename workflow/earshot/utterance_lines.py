"""evaluation.utterances.jsonl: all that was found of each utterance by each form of a model, a JSON object a line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from earshot import metrics
from earshot.decoders import Hypothesis
from earshot.files import atomic


def beside(evaluation: str | Path) -> Path:
    """The lines beside the JSON of an evaluation."""
    return Path(evaluation).with_suffix(".utterances.jsonl")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Callable[[str, metrics.Row, Sequence[Hypothesis]], None]]:
    """A function that writes a line, of a form's name, its row, and what it found, the best first; `path` is there when all are written."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as stream:

        def write(form: str, row: metrics.Row, found: Sequence[Hypothesis]) -> None:
            stream.write(json.dumps(line(form, row, found), ensure_ascii=False) + "\n")

        yield write


def write_none(path: Path) -> None:
    """Write the file of no utterances."""
    with writing(path):
        pass


def line(form: str, row: metrics.Row, found: Sequence[Hypothesis]) -> dict[str, Any]:
    """The object of one form and utterance; `errors` are jiwer's alignment, without the words that are right."""
    counts = {key: getattr(row, key) for key in ("id", "duration_s", "reference", "hypothesis", "substitutions", "deletions", "insertions")}
    errors = [asdict(edit) for edit in metrics.edits(row.reference, row.hypothesis)] if row.errors else []
    return {"form": form, **counts, "errors": errors, **recognized(found)}


def recognized(found: Sequence[Hypothesis]) -> dict[str, Any]:
    """Words of the best hypothesis with their times, and the texts of all."""
    return {
        "words": [asdict(word) for word in found[0].words],
        "nbest": [{"text": one.text, "score": round(one.score, 4)} for one in found],
    }
