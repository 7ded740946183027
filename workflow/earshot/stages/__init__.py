"""One Hydra application per stage: `python -m earshot.stages.NAME key=value ...`; `--help` shows the configuration."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import hydra

from earshot import config
from earshot.errors import EarshotError


def stage(name: str) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Make a command of a function that takes the typed configuration of stage `name`.

    A failure that the user can act on ends in one line on stderr and exit status 1; a broken downstream of a pipe or Ctrl-C is no traceback either.
    """
    config.register()

    def wrap(function: Callable[[Any], None]) -> Callable[[], None]:
        @hydra.main(version_base="1.3", config_path=str(config.CONF_DIR), config_name=name)
        @functools.wraps(function)
        def main(cfg: Any) -> None:
            try:
                function(config.typed(cfg))
            except EarshotError as error:
                sys.exit(f"earshot {name}: {error}")
            except KeyboardInterrupt:
                print(f"earshot {name}: interrupted; what was done so far is kept where the stage can resume", file=sys.stderr)
                os._exit(130)

        return main

    return wrap
