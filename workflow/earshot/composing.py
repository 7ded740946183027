"""What Hydra makes of words: the values of a point, the options of a group as their files have them, the points of a sweep.

To compose takes Hydra a tenth of a second and more, so options are read once in a process.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from earshot.config import CONF_DIR, Pipeline, register, typed
from earshot.errors import ConfigError
from earshot.hydra_words import readable

BARE = "bare"  # all groups with the defaults of their dataclasses, no option chosen: half the time of `pipeline`

_options: dict[tuple[str, str], Any] = {}


@contextlib.contextmanager
def configuration() -> Iterator[None]:
    """Hydra at the files of conf/, unless it is there already."""
    if GlobalHydra.instance().is_initialized():
        yield
        return
    register()
    ConfigStore.instance().store(name=BARE, node=Pipeline)
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        yield


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Python's garbage collector at rest: Hydra makes many objects for one composition, and nearly all of them are in use until its end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_uncollected()
def composed(overrides: list[str]) -> DictConfig:
    """All values of a point, and under `hydra` what was chosen.

    Raises:
        ConfigError: Hydra does not take the words.
    """
    try:
        return compose("pipeline", overrides=overrides, return_hydra_config=True)
    except Exception as error:  # of a group that is given a number or a list, Hydra says so by ValueError, TypeError and others
        raise ConfigError(readable(error)) from error


def words_of(key: str, text: str) -> list[str]:
    """The words of a text, as a shell has them.

    Raises:
        ConfigError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--config {key}={text!r}: not words as a shell has them ({error}); quote what holds spaces or quotes") from None


def points(text: str) -> list[list[str]]:
    """The points of a sweep in Hydra's multirun grammar: `quant=int8_pc,a16w8 target=glob(u85_*)` gives one list of overrides for each.

    Raises:
        ConfigError: the text is not in that grammar.
    """
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    try:
        parsed = parser.parse_overrides(words_of("sweep", text))
    except HydraException as error:
        raise ConfigError(f"sweep={text!r}: not in the grammar KEY=VALUE,VALUE KEY=VALUE ...: {readable(error)}") from error
    return [list(point) for point in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]


def options(choices: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By group, the values of the option that `choices` names as its file gives them, nothing overridden."""
    unread = {group: option for group, option in choices.items() if (group, option) not in _options}
    if unread:
        cfg = _bare(unread)
        _options.update({(group, option): OmegaConf.to_container(cfg[group], resolve=True) for group, option in unread.items()})
    return {group: _options[group, option] for group, option in choices.items()}


@_uncollected()
def _bare(choices: Mapping[str, str]) -> DictConfig:
    return compose(BARE, overrides=[f"+{group}={option}" for group, option in choices.items()])


@functools.cache
def option(group: str, name: str) -> Any:
    """The dataclass object of one option as its file has it.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        with configuration():
            return typed(_bare({group: name})[group])
    except HydraException as error:
        raise ConfigError(readable(error)) from error


@functools.cache
def default_choices(groups: tuple[str, ...]) -> dict[str, str]:
    """By group, the option that is taken where no experiment and no word says another."""
    chosen = composed(["~experiment"]).hydra.runtime.choices
    return {group: chosen[group] for group in groups}


def targets_of(families: Iterable[str]) -> list[str]:
    """The targets whose family is one of `families`."""
    names = GlobalHydra.instance().config_loader().get_group_options("target")
    return [name for name in names if option("target", name).family in set(families)]
