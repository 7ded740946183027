"""Hydra's grammar of overrides, and its errors in one line."""

from __future__ import annotations

import dataclasses
import difflib
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
    """Hydra's message and its cause in one line, without the lists of search paths and the advice that does not fit here; for a key that
    there is not, with the one that is most like it, or with all that there are."""
    texts = [str(error)] + ([str(error.__cause__)] if error.__cause__ else [])
    lines = [line.strip() for text in texts for line in text.split("Config search path:")[0].splitlines()]
    unfit = ("HYDRA_FULL_ERROR", "To append to your config", "object_type=", "reference_type=")
    said = [line.rstrip(".:") for line in lines if line and not any(word in line for word in unfit)]
    return "; ".join([*said, *_known_keys(error.__cause__ or error.__context__ or error)])


def _known_keys(error: BaseException) -> list[str]:
    kind, key = getattr(error, "object_type", None), getattr(error, "key", None)
    known = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    if not known or not isinstance(key, str) or key in known:
        return []
    path = str(getattr(error, "full_key", None) or key).removesuffix(key)
    alike = difflib.get_close_matches(key, known, n=1)
    return [f"did you mean {path}{alike[0]}?" if alike else f"keys are {', '.join(path + name for name in known)}"]
