"""Parts of a model: what tables and searches take as one, of the modules that the layers stand in."""

from __future__ import annotations


def part_of(path: str) -> str:
    """The part that a module of dotted names belongs to: of a numbered list the parts of each member (blocks.0.feed_forward1), else the
    outermost name.
    """
    names = path.split(".")
    number = next((i for i, name in enumerate(names) if name.isdecimal()), -1)
    return ".".join(names[: number + 2]) if number >= 0 else names[0]
