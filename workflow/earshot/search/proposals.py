"""Mixtures as schemes: what `quant.parts` says of an assignment of schemes to parts of a network, and under which name.

No torch is needed here: Snakemake imports this module to find the variants that a search has proposed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from earshot.files import read_json

SEARCHED = "search_"  # what the name of a scheme begins with that a search made up
MADE_UP = ("scheme", "parts", "families")  # what such a scheme has of its own
PRECISION = ("quantize", "weight_bits", "activation_bits", "per_channel", "dynamic")
Assignment = Mapping[str, str]  # part to scheme


@dataclass(frozen=True)
class Proposal:
    """A scheme that is to be built: a choice of quant and calib, and for a mixture its name, its parts and who can run it."""

    quant: str
    calib: str
    scheme: str
    parts: tuple[dict[str, Any], ...] = ()
    families: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.scheme}-{self.calib}"

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Proposal:
        """What `content` gave, among other things."""
        return cls(content["quant"], content["calib"], content["scheme"], tuple(content["parts"]), tuple(content["families"]))


def uniform(scheme: str, calib: str) -> Proposal:
    return Proposal(scheme, calib, scheme)


def mixture(
    assignment: Assignment, schemes: Mapping[str, Mapping[str, Any]], calib: str, deciding: Collection[str], known: Collection[str]
) -> Proposal:
    """The proposal of an assignment; a part that it does not name has the first scheme.

    Args:
        schemes: values of each choice of quant; the first is the base.
        deciding: parts of which one scheme in all of them is that scheme for the whole network.
        known: all parts of the network.
    """
    base = next(iter(schemes))
    given = {assignment.get(part, base) for part in deciding} | set(assignment.values())
    if len(given) < 2:
        return uniform(next(iter(given), base), calib)
    parts = tuple(_parts(assignment, schemes, base, known))
    used = [schemes[name] for name in (base, *sorted(set(assignment.values())))]
    families = tuple(family for family in used[0]["families"] if all(family in one["families"] for one in used))
    digest = hashlib.sha256(json.dumps([base, parts], sort_keys=True).encode()).hexdigest()[:8]
    return Proposal(base, calib, f"{SEARCHED}{digest}", parts, families)


def _parts(assignment: Assignment, schemes: Mapping[str, Mapping[str, Any]], base: str, known: Collection[str]) -> Iterable[dict[str, Any]]:
    """The list of `quant.parts`: inner modules first, since the first that has a module decides; what is as the base only where an outer
    one is not.
    """
    other = {part: scheme for part, scheme in assignment.items() if scheme != base}
    for part in sorted({*known, *other}, key=lambda part: (-part.count("."), part)):
        if part in other or any(part.startswith(f"{outer}.") for outer in other):
            yield {"modules": part, **{key: schemes[other.get(part, base)][key] for key in PRECISION}}


def read(path: str | Path) -> list[Proposal]:
    """The proposals of a round.

    Raises:
        ArtifactError: the file is absent or damaged.
    """
    return [Proposal.of(one) for one in read_json(path)["proposals"]]
