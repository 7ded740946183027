"""Words that a user may give: they compose, or end in one clear line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from trying import tries

from earshot import config
from earshot.config import Pipeline
from earshot.errors import ConfigError
from earshot.hydra_words import hydra_value, readable
from earshot.pipeline import GROUPS, variants


def keys(schema: type, prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(schema).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{prefix}{name}.")


STRANGE = [
    "nan",
    "-inf",
    "1e999",
    "${model.dim}",
    "${oc.env:NONE}",
    "${",
    "???",
    "[1,2]",
    "{a: 1}",
    "range(1,3)",
    "glob(*)",
    "it's",
    '"',
    "a=b",
    "",
]
SCALARS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=12), st.sampled_from(STRANGE))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=2), max_leaves=4
)
WORDS = st.builds(
    "{}{}={}".format,
    st.sampled_from(["", "", "", "+", "++", "~"]),
    st.sampled_from(sorted(keys(Pipeline))) | st.sampled_from(GROUPS) | st.text(max_size=8),
    SCALARS.map(str) | VALUES.map(hydra_value),
)
SCHEMAS = [hint for hint in get_type_hints(Pipeline).values() if dataclasses.is_dataclass(hint)]


def one_line(error: ConfigError) -> None:
    assert str(error) and "\n" not in str(error), str(error)


@tries(5)  # to compose takes a third of a second
@given(words=st.lists(WORDS, min_size=1, max_size=2))
def test_words_compose_or_are_refused_in_one_line(words):
    try:
        assert variants({"overrides": words, "sweep": "quant=int8_pc"})
    except ConfigError as error:
        one_line(error)


@pytest.mark.parametrize("group", ["model", "budget", "tracking"])
def test_a_group_of_which_nothing_is_chosen_is_told(group):
    with pytest.raises(ConfigError, match=f"{group}: nothing is chosen; choose one of conf/{group}/"):
        variants({"overrides": [f"{group}=[]"]})


@tries(6)
@given(value=st.text() | st.lists(WORDS, max_size=2).map(" ".join) | VALUES, key=st.sampled_from(["overrides", "sweep"]))
def test_what_is_no_words_is_refused_in_one_line(value, key):
    with pytest.raises(ConfigError) as error:
        variants({"target": "none_such", key: value})  # whatever the value says, that target is not there
    one_line(error.value)


@tries(200)
@given(data=st.data(), schema=st.sampled_from(SCHEMAS), value=VALUES)
def test_any_value_of_a_key_is_taken_or_refused_in_one_line(data, schema, value):
    name = data.draw(st.sampled_from([f.name for f in dataclasses.fields(schema)]))
    group = OmegaConf.structured(schema)
    try:
        group[name] = value
    except OmegaConfBaseException as error:  # as `variants` and the stages meet it
        assert "\n" not in readable(error)
        return
    try:
        config.typed(group)
    except ConfigError as error:
        one_line(error)


def test_a_line_break_in_a_value_is_shown_as_one_writes_it():
    with pytest.raises(ConfigError, match=r"^Export\.formats=.*: \\n\\x1b is no format"):
        config.typed(OmegaConf.merge(OmegaConf.structured(config.Export), {"formats": ["\n\x1b"]}))


@pytest.mark.parametrize("value", ["nan", ".inf", "-.inf"])
def test_no_number_is_no_number(value):
    with pytest.raises(ConfigError, match=r"Train.lr=.*: must be a finite number"):
        config.typed(OmegaConf.merge(OmegaConf.structured(config.Train), OmegaConf.create(f"lr: {'.nan' if value == 'nan' else value}")))


def test_quotes_that_are_not_closed_are_told():
    with pytest.raises(
        ConfigError, match=r"--config overrides=\"corpus.root=it's\": not words as a shell has them \(No closing quotation\)"
    ):
        variants({"overrides": "corpus.root=it's"})
