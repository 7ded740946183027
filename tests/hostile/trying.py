"""How many inputs a property is tried with, and how many have been."""

from __future__ import annotations

import functools
from collections.abc import Callable

from hypothesis import HealthCheck, settings

PLAIN = settings(
    max_examples=100, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)
TRIED = [0]  # in this process


def tries(percent: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Try a property (`@given` below) with so many inputs for each hundred of the profile (`--hypothesis-profile`), and count them."""

    def wrap(check: Callable[..., None]) -> Callable[..., None]:
        inner = check.hypothesis.inner_test

        @functools.wraps(inner)
        def counted(*args: object, **kwargs: object) -> None:
            TRIED[0] += 1
            inner(*args, **kwargs)

        check.hypothesis.inner_test = counted
        return settings(max_examples=max(1, settings.default.max_examples * percent // 100))(check)

    return wrap
