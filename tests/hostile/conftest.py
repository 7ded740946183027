"""Profiles of Hypothesis: a plain run tries few inputs and `many` (in CI) twenty times as many, the same each time, so that no commit fails
by chance; `others` draws as many anew, to hunt with."""

from __future__ import annotations

import pytest
from hypothesis import settings
from trying import PLAIN, TRIED

settings.register_profile("plain", PLAIN)
settings.register_profile("many", PLAIN, max_examples=2000)
settings.register_profile("others", PLAIN, max_examples=2000, derandomize=False, print_blob=True)
settings.load_profile("plain")


@pytest.fixture(autouse=True)
def count(request: pytest.FixtureRequest) -> None:
    """What a test has tried goes with its report, from whichever process it ran in."""
    before = TRIED[0]
    yield
    request.node.user_properties.append(("hostile inputs", TRIED[0] - before))
