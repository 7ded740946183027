"""Results that may leave their type: TOSA then calls what follows unpredictable, and so the run ends."""

from __future__ import annotations

from collections.abc import Callable

import torch

from earshot.errors import ArtifactError

Function = Callable[..., torch.Tensor]


def within(tensor: torch.Tensor, low: int, high: int, title: str) -> torch.Tensor:
    """`tensor`, whose values are looked at.

    Raises:
        ArtifactError: a value is outside of low ... high.
    """
    found = torch.aminmax(tensor)
    if found.min.item() < low or found.max.item() > high:
        raise ArtifactError(
            f"{title}: overflow, values {found.min.item():.0f} to {found.max.item():.0f} where {low} to {high} are allowed: "
            "what follows is not defined (TOSA_UNPREDICTABLE)"
        )
    return tensor


def checked(*tensors: torch.Tensor, function: Function, low: int, high: int, title: str) -> torch.Tensor:
    """The result of `function`, looked at as by `within`."""
    return within(function(*tensors), low, high, title)
