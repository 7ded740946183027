"""candidates.json: the mixtures that a search has compared in PyTorch, with what they lose and what they are predicted to cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earshot.files import read_json
from earshot.search.proposals import Proposal
from earshot.search.select import Candidate

COMPARED = ("assignment", "loss", "noise", "wer_increase", "predicted")


@dataclass(frozen=True)
class Point:
    """A mixture with a calibration, and the noise and loss that it was found to have."""

    calib: str
    assignment: dict[str, str]  # part to scheme, of those that are not of the base
    noise: float
    loss: float


def content(candidates: Iterable[Candidate]) -> list[dict[str, Any]]:
    """As JSON has them."""
    return [{**one.proposal.content(), **{key: getattr(one, key) for key in COMPARED}} for one in candidates]


def read(path: str | Path) -> list[Candidate]:
    """
    Raises:
        ArtifactError: the file is absent or damaged.
    """
    return [Candidate(Proposal.of(one), **{key: one[key] for key in COMPARED}) for one in read_json(path)["candidates"]]
