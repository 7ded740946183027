"""Hydra's grammar of overrides, and its errors in one line."""

from __future__ import annotations

import re
from typing import Any


def hydra_value(value: Any) -> str:
    """A value in Hydra's override grammar, quoted where it must be."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(hydra_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}: {hydra_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)


def readable(error: Exception) -> str:
    """Hydra's message and its cause in one line, without the lists of search paths and the advice that does not fit here."""
    texts = [str(error)] + ([str(error.__cause__)] if error.__cause__ else [])
    lines = [line.strip() for text in texts for line in text.split("Config search path:")[0].splitlines()]
    unfit = ("HYDRA_FULL_ERROR", "To append to your config", "object_type=", "reference_type=")
    return "; ".join(line.rstrip(".:") for line in lines if line and not any(word in line for word in unfit))
