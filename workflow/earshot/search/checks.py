"""Whether a search can be made as it is asked for: told before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earshot.composing import option
from earshot.config import Pipeline
from earshot.config.search import BUILDING
from earshot.errors import ConfigError
from earshot.naming import suffix


def check_search(config: Pipeline, base: str, overridden: Mapping[str, Any]) -> None:
    """`base` is the choice of `quant` that the search starts from, `overridden` what differs from its file.

    Raises:
        ConfigError: the schemes of the search are not what can be mixed, or not all of them are in the sensitivity table.
    """
    search, family = config.search, config.target.family
    if config.window.left_context_s:
        raise ConfigError(f"search.method={search.method}: of programs without a cache; set window.left_context_s to 0")
    of_search = search.schemes if search.method in BUILDING else []
    schemes = {name: option("quant", name) for name in dict.fromkeys([*of_search, *config.sensitivity.schemes])}
    for name in of_search:
        possible = not schemes[name].dynamic and not schemes[name].parts and schemes[name].float_type == "float32"
        if not possible or family not in schemes[name].families:
            raise ConfigError(f"search.schemes: {name} is not one scheme of static ranges, or of floats, that family {family} can take")
        if schemes[name].quantize and name not in config.sensitivity.schemes:
            raise ConfigError(f"search.schemes: {name} is not in the table that the search starts from; add it to sensitivity.schemes")
    if of_search and (base != of_search[0] or overridden):
        raise ConfigError(
            f"quant={base}{suffix(overridden)}: a search starts from the first of search.schemes as it is; set quant={of_search[0]}"
        )
    if of_search and config.model.npu_form and family != "host" and not all(schemes[name].takes_npu_form(family) for name in of_search):
        raise ConfigError(
            "search.schemes: with 16 bits of an activation programs are not of the NPU form, and their parts are others; "
            "set model.npu_form=false, or leave such schemes out"
        )
