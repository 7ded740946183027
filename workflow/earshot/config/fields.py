"""Fields with bounds, and the base of all groups, which checks them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from earshot.errors import ConfigError

SAMPLE_RATE_HZ = 16_000


def bounded(default: Any, *, ge: float = -math.inf, gt: float = -math.inf, le: float = math.inf, lt: float = math.inf) -> Any:
    """A number with bounds: `ge` <= value <= `le`, `gt` < value < `lt`."""
    return field(default=default, metadata={"ge": ge, "gt": gt, "le": le, "lt": lt})


def one_of(default: str, *options: str) -> Any:
    """A word out of a closed set."""
    return field(default=default, metadata={"options": options})


def check_checksum(key: str, checksum: str) -> None:
    """
    Raises:
        ConfigError: not sha256:HEX or md5:HEX.
    """
    algorithm, _, digest = checksum.partition(":")
    if len(digest) != {"sha256": 64, "md5": 32}.get(algorithm):
        raise ConfigError(f"{key}: {checksum!r} is not sha256:HEX or md5:HEX")


@dataclass
class Checked:
    """Base of all groups: checks the bounds that the fields declare."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value, rule = getattr(self, f.name), f.metadata
            if "options" in rule and value not in rule["options"]:
                raise ConfigError(f"{type(self).__name__}.{f.name}={value!r}: choose one of {', '.join(rule['options'])}")
            if "ge" in rule and isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{type(self).__name__}.{f.name}={value}: must be a finite number")
            if "ge" in rule and value is not None:
                broken = [
                    text
                    for bad, text in (
                        (value < rule["ge"], f"must be at least {rule['ge']}"),
                        (value <= rule["gt"], f"must be greater than {rule['gt']}"),
                        (value > rule["le"], f"must be at most {rule['le']}"),
                        (value >= rule["lt"], f"must be less than {rule['lt']}"),
                    )
                    if bad
                ]
                if broken:
                    raise ConfigError(f"{type(self).__name__}.{f.name}={value}: {broken[0]}")
