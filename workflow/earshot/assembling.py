"""The configurations of many points of a sweep, put together of few compositions.

Hydra takes some tenths of a second for a configuration, and a sweep may have hundreds of points. As a group's values follow from its own
choice and overrides alone, each choice is composed once, and the points are put together of them. A point of which that is not so is
composed as a whole.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hydra.core.default_element import ConfigDefault, GroupDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from earshot import composing
from earshot.config import Pipeline, typed
from earshot.errors import ConfigError

KEYS = tuple(f.name for f in fields(Pipeline))
# A value that is taken from elsewhere in the configuration, and so perhaps from another group; the environment is the same for all.
REFERENCE = re.compile(r"\$\{(?!oc\.env:)")


@dataclass(frozen=True)
class Part:
    """A group of a configuration, or another of the pipeline's values."""

    choice: str | None
    node: Any

    @functools.cached_property
    def typed(self) -> Any:
        """
        Raises:
            ConfigError: a value is missing, of the wrong type or out of bounds.
        """
        return typed(self.node) if OmegaConf.is_config(self.node) else self.node

    @functools.cached_property
    def values(self) -> Any:
        """Resolved, as dictionaries and lists; points share them, so they are not to be changed."""
        return OmegaConf.to_container(self.node, resolve=True) if OmegaConf.is_config(self.node) else self.node

    @functools.cached_property
    def refers(self) -> bool:
        """Whether a value is taken from elsewhere in the configuration."""
        return OmegaConf.is_config(self.node) and bool(REFERENCE.search(OmegaConf.to_yaml(self.node)))


@dataclass(frozen=True)
class Point:
    """A composed configuration: its parts, by the keys of the pipeline."""

    parts: Mapping[str, Part]

    def typed(self) -> Pipeline:
        """
        Raises:
            ConfigError: a value is missing, of the wrong type or out of bounds.
        """
        return Pipeline(**{key: part.typed for key, part in self.parts.items()})

    @property
    def values(self) -> dict[str, Any]:
        """Resolved; the values of a group are shared with other points."""
        return {key: part.values for key, part in self.parts.items()}

    @property
    def choices(self) -> dict[str, str]:
        """Group to choice."""
        return {key: part.choice for key, part in self.parts.items() if part.choice is not None}


def composed(words: Iterable[str]) -> Point:
    """The configuration of these words, in Hydra's grammar of overrides; Hydra is to be initialized at the files of conf/.

    Raises:
        ConfigError: Hydra does not take the words.
    """
    cfg = composing.composed(list(words))
    choices = cfg.hydra.runtime.choices
    return Point({key: Part(choices.get(key), cfg[key]) for key in KEYS})


def composed_points(first: Sequence[str], points: Sequence[Sequence[str]]) -> list[Point]:
    """What `composed` gives for `first` with the words of each point.

    Raises:
        ConfigError: Hydra does not take the words.
    """
    if len(points) <= len({word for words in points for word in words if "." not in word.partition("=")[0]}):
        return [composed((*first, *words)) for words in points]  # fewer than the choices of which they would be put together
    composer = Composer(first)
    composer.prepare(word for words in points for word in words)
    return [composer.point(words) for words in points]


class Composer:
    """Composes points that have their first words in common, each choice of a group once."""

    def __init__(self, first: Iterable[str]) -> None:
        self._first = tuple(first)
        self._chosen: dict[str, Part] = {}  # by the word that chooses, without the values that the first words override
        self._parts: dict[tuple[str, ...], Part | None] = {}  # by all words of the group

    @functools.cached_property
    def base(self) -> Point:
        """The configuration of the first words alone; it may lack values.

        Raises:
            ConfigError: Hydra does not take the words.
        """
        return composed(self._first)

    def prepare(self, words: Iterable[str]) -> None:
        """Compose the choices among the words of points, of several groups at a time."""
        new: dict[str, list[str]] = {}
        for word in dict.fromkeys(words):
            if _is_choice(word) and word not in self._chosen and _is_of_one_group(word):
                new.setdefault(_group(word), []).append(word)
        for choices in itertools.zip_longest(*new.values()):
            of_group = {_group(word): word for word in choices if word is not None}
            found = composed([*(word for word in self._first if _group(word) not in of_group), *of_group.values()])
            if not any(part.refers for part in found.parts.values()):
                self._chosen |= {word: found.parts[group] for group, word in of_group.items()}

    def point(self, words: Iterable[str]) -> Point:
        """The configuration with these further words.

        Raises:
            ConfigError: Hydra does not take the words.
        """
        words = tuple(words)
        try:
            assembled = self._assembled(words)
        except (ConfigError, HydraException, OmegaConfBaseException):
            assembled = None  # Hydra says best what is wrong, of all words
        return assembled or composed((*self._first, *words))

    @functools.cached_property
    def _refers(self) -> bool:
        return any(part.refers for part in self.base.parts.values())

    def _assembled(self, words: tuple[str, ...]) -> Point | None:
        if self._refers:
            return None
        of_group: dict[str, tuple[str, ...]] = {}
        for word in words:
            if (group := _group(word)) not in self.base.choices:
                return None
            of_group[group] = (*of_group.get(group, ()), word)
        found = {group: self._part(group, some) for group, some in of_group.items()}
        parts = {group: part for group, part in found.items() if part is not None}
        return Point({**self.base.parts, **parts}) if len(parts) == len(found) else None

    def _part(self, group: str, words: tuple[str, ...]) -> Part | None:
        """The group with these words of it, or None where it cannot be composed by itself."""
        if words not in self._parts:
            choice = next((word for word in reversed(words) if _is_choice(word)), None)
            start, before = self._start(group, choice)
            self._parts[words] = start and _overridden(start, [word for word in (*before, *words) if not _is_choice(word)])
        return self._parts[words]

    def _start(self, group: str, choice: str | None) -> tuple[Part | None, tuple[str, ...]]:
        """What the words of a point override, and those words of the first that are not in it yet."""
        part = self.base.parts[group]
        if choice is None or _parsed(choice).value() == part.choice:
            return part, ()
        if choice not in self._chosen:
            self.prepare([choice])
        return self._chosen.get(choice), tuple(word for word in self._first if _group(word) == group)


def _overridden(part: Part, words: Iterable[str]) -> Part:
    node = copy.deepcopy(part.node)
    for override in map(_parsed, words):
        OmegaConf.update(node, override.key_or_group.partition(".")[2], override.value(), merge=True)
    return Part(part.choice, node)


@functools.cache
def _parsed(word: str) -> Override:
    return OverridesParser.create().parse_override(word)


def _group(word: str) -> str:
    """The group that a word chooses or overrides a value of; empty if it is of another kind, such as an addition or a deletion."""
    override = _parsed(word)
    if override.type is not OverrideType.CHANGE or override.package is not None or override.is_sweep_override():
        return ""
    group, dot, _ = override.key_or_group.partition(".")
    return group if dot or isinstance(override.value(), str) else ""


def _is_choice(word: str) -> bool:
    return "." not in _parsed(word).key_or_group


@functools.cache
def _is_of_one_group(word: str) -> bool:
    """Whether the file of a choice says nothing of other groups: it has no package of its own, and builds on a schema or its like alone."""
    group, choice = _group(word), _parsed(word).value()
    if group not in KEYS:
        return False
    loader: Any = GlobalHydra.instance().config_loader()  # the class that Hydra declares is more abstract than what it gives
    found = loader.repository.load_config(f"{group}/{choice}")
    if found is None or found.header.get("package") or found.defaults_list is None:
        return False
    own = [one for one in found.defaults_list if isinstance(one, ConfigDefault) and "/" not in (one.path or "")]
    schemas = [one for one in found.defaults_list if isinstance(one, GroupDefault) and (one.group or "").startswith("/schema/")]
    alike = all(_is_of_one_group(f"{group}={one.path}") for one in own if not one.is_self())
    return alike and len(own) + len(schemas) == len(found.defaults_list)
