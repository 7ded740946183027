"""envs/requirements.lock holds what an installation with it brings, and nothing else: an unpinned package would be another one tomorrow."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required(name: str, extra: str) -> Iterator[Requirement]:
    """What a package asks for by itself (`extra` is empty), or for an extra; earshot as pyproject.toml has it now."""
    if name == PROJECT["name"]:
        lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    else:
        lines = distribution(name).requires or []
    for one in map(Requirement, lines):
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            yield one


def brought(name: str, extra: str, known: set[tuple[str, str]]) -> None:
    """Add all packages, with their extras, that an installation of `name` brings."""
    if (name, extra) not in known:
        known.add((name, extra))
        for one in required(name, extra):
            for part in ("", *one.extras):
                brought(canonicalize_name(one.name), part, known)


def test_every_package_of_an_installation_is_pinned_and_no_other():
    known: set[tuple[str, str]] = set()
    for extra in ("", "dev"):
        brought(PROJECT["name"], extra, known)
    lines = (ROOT / "envs" / "requirements.lock").read_text().splitlines()
    pinned = [re.split("===?", line)[0] for line in lines if line and not line.startswith("#")]
    assert {canonicalize_name(name) for name in pinned} == {name for name, _ in known} - {PROJECT["name"]}
