"""Calling a stage as its command line does, in this process: what it imports is loaded once for all tests."""

from __future__ import annotations

import importlib
import sys

import pytest


def run(stage: str, *arguments: str) -> None:
    module = importlib.import_module(f"earshot.stages.{stage}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [stage, *arguments])
        module.main()


def fails(stage: str, *arguments: str) -> str:
    """The message of a stage that ends with an error for the user."""
    with pytest.raises(SystemExit) as ending:
        run(stage, *arguments)
    message = str(ending.value.code)
    assert message.startswith(f"earshot {stage}: ") and "\n" not in message, message
    return message
