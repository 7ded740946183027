"""Another function in the place of one of a library's, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_ABSENT = object()


@contextlib.contextmanager
def replaced(owner: Any, name: str, by: Any) -> Iterator[None]:
    """Within the block, `owner.name` is `by`; `owner` is a module or a class, which may have had no such attribute of its own."""
    before = vars(owner).get(name, _ABSENT)
    setattr(owner, name, by)
    try:
        yield
    finally:
        if before is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
