"""One Hydra application per stage: `python -m earshot.stages.NAME key=value ...`; `--help` shows the configuration."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import hydra
from hydra.core.override_parser.types import Quote, QuotedString

from earshot import config
from earshot.errors import EarshotError
from earshot.files import storage_error

# While a command imports torch and ExecuTorch, objects are made that all stay. Python's collector would look through them again, a
# tenth and more of the time that a command takes to start; `stage` switches it on again, which is called when all is imported.
if sys.argv[0] == "-m":  # as it is while `python -m earshot.stages.NAME` looks for its module
    gc.disable()


def text_keys(schema: type, prefix: str = "") -> Iterator[str]:
    """The keys of a configuration dataclass, and of the groups within it, whose value is a text such as a path."""
    hints = get_type_hints(schema)
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(hints[f.name]):
            yield from text_keys(hints[f.name], f"{prefix}{f.name}.")
        elif hints[f.name] in (str, str | None) or f.metadata.get("text"):
            yield prefix + f.name


def verbatim(schema: type, argument: str) -> str:
    """A command-line argument `key=value`, quoted for Hydra where the value is a text.

    Without it, Hydra's grammar takes a comma for a sweep and stumbles over `=`, parentheses and letters beyond ASCII. `null`, a list, a
    mapping and what the user has quoted are left to Hydra.
    """
    key, equals, value = argument.partition("=")
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if not equals or key not in text_keys(schema) or quoted or value.startswith(("[", "{")) or value == "null":
        return argument
    return f"{key}={QuotedString(text=value, quote=Quote.double).with_quotes()}"


def whole_key(schema: type, group: str, argument: str) -> str:
    """A command-line argument whose key may be one of `group`, without the name of the group before it."""
    key = argument.partition("=")[0]
    return f"{group}.{argument}" if key in {f.name for f in dataclasses.fields(get_type_hints(schema)[group])} else argument


def stage(name: str, group: str | None = None) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Make a command of a function that takes the typed configuration of stage `name`; the keys of `group` may be given without its name.

    A failure that the user can act on ends in one line on stderr and exit status 1; a broken downstream of a pipe or Ctrl-C is no traceback
    either.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    config.register()

    def wrap(function: Callable[[Any], None]) -> Callable[[], None]:
        @hydra.main(version_base="1.3", config_path=str(config.CONF_DIR), config_name=name)
        @functools.wraps(function)
        def main(cfg: Any) -> None:
            try:
                function(config.typed(cfg))
            except EarshotError as error:
                sys.exit(f"earshot {name}: {error}")
            except OSError as error:
                told = storage_error(error, "a file of this step")
                if told is None:
                    raise
                sys.exit(f"earshot {name}: {told}")
            except KeyboardInterrupt:
                print(f"earshot {name}: interrupted; what was done so far is kept where the stage can resume", file=sys.stderr)
                os._exit(130)
            except BrokenPipeError:
                os._exit(141)

        @functools.wraps(function)
        def command() -> None:
            if group:
                sys.argv[1:] = [whole_key(config.STAGES[name], group, argument) for argument in sys.argv[1:]]
            if not {"-m", "--multirun"} & set(sys.argv):  # in a multirun, a comma is a sweep
                sys.argv[1:] = [verbatim(config.STAGES[name], argument) for argument in sys.argv[1:]]
            main()

        return command

    return wrap
