"""evaluation.utterances.csv: what each form of a model recognized in each utterance, beside the JSON of the evaluation."""

from __future__ import annotations

import csv
from pathlib import Path

from earshot import metrics
from earshot.errors import ArtifactError
from earshot.files import atomic

COLUMNS = ["id", "duration_s", "reference", "hypothesis", "words", "substitutions", "deletions", "insertions"]
OTHER = "hypothesis_"  # columns of the forms after the first


def beside(evaluation: str | Path) -> Path:
    """The table beside the JSON of an evaluation."""
    return Path(evaluation).with_suffix(".utterances.csv")


def write(path: Path, rows: list[metrics.Row], others: dict[str, list[metrics.Row]]) -> None:
    """Write a line per utterance, the worst first; `others` are further forms, whose hypotheses are shown beside."""
    recognized = [{row.id: row.hypothesis for row in of_form} for of_form in others.values()]
    order = sorted(range(len(rows)), key=lambda i: (-rows[i].errors, rows[i].words, rows[i].id))
    with atomic(path) as temporary, temporary.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS + [f"{OTHER}{name}" for name in others])
        for i in order:
            table.writerow([getattr(rows[i], column) for column in COLUMNS] + [of_form[rows[i].id] for of_form in recognized])


def read(path: Path, form: str | None = None) -> list[metrics.Row]:
    """The rows of a form, by default the first one, in the order of the utterances' ids.

    Raises:
        ArtifactError: no such table, or none of that form.
    """
    column = "hypothesis" if form is None else f"{OTHER}{form}"
    try:
        with path.open(newline="") as stream:
            table = sorted(csv.DictReader(stream), key=lambda line: line["id"])
        return [metrics.compare(line["id"], float(line["duration_s"]), line["reference"], line[column]) for line in table]
    except (OSError, LookupError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: no table of utterances with column {column} ({error!r}); run the evaluate step again") from error
