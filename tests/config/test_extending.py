"""docs/extending.md: its files, put into a copy of conf/, are what its commands build."""

from __future__ import annotations

import shlex
import shutil

import pytest
from extending_page import COMMANDS, add_files

from earshot import composing, config
from earshot.pipeline import Variant, variants


@pytest.fixture
def conf(tmp_path, monkeypatch) -> None:
    """conf/ with the files of the page."""
    folder = shutil.copytree(config.CONF_DIR, tmp_path / "conf")
    add_files(folder)
    monkeypatch.setattr(composing, "CONF_DIR", folder)


def asked(heading: int) -> list[Variant]:
    """The variants that the command of a section asks for."""
    (command,) = COMMANDS[heading]
    return variants(dict(word.split("=", 1) for word in shlex.split(command)))


def test_a_scheme(conf):
    mine, other = asked(0)
    assert mine.scheme.startswith("mine-") and other.scheme.startswith("int8_pc-") and mine.model == other.model
    assert mine.config["quant"]["weight_bits"] == 4 and mine.config["quant"]["parts"][0]["activation_bits"] == 16


def test_a_model(conf):
    (mine,) = asked(1)
    assert mine.model == "mine-synth" and mine.config["model"]["layers"] == 3 and "model=mine" in mine.arguments(["model"])


def test_a_target(conf):
    mine, other = asked(2)
    assert mine.target == "mine" and mine.config["target"]["sram_kib"] == 768
    assert (mine.model, mine.scheme, mine.family) == (other.model, other.scheme, other.family)  # the program is shared


def test_a_corpus(conf):
    (mine,) = asked(3)
    assert mine.corpus == "mine" and mine.config["corpus"]["root"] == "data/mine" and not mine.config["corpus"]["download"]
