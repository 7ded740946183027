"""What is composed or read once is not composed or read again, unless something that it depends on has changed."""

from __future__ import annotations

import shutil

import pytest

from earshot import composing, config, keeping, source_digest
from earshot.errors import ConfigError
from earshot.pipeline import proposed, variants
from earshot.search.proposals import uniform

ASKED = {"sweep": "quant=int8_pc,a16w8", "overrides": "train.epochs=3"}


@pytest.fixture(autouse=True)
def no_options_read(monkeypatch):
    """As in a process of its own: an option is read once, with the environment of then."""
    monkeypatch.setattr(composing, "_options", {})


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A copy of conf/, to change."""
    folder = shutil.copytree(config.CONF_DIR, tmp_path / "conf")
    monkeypatch.setattr(composing, "CONF_DIR", folder)
    monkeypatch.setattr(keeping, "CONF_DIR", folder)
    return folder


@pytest.fixture
def kept(tmp_path):
    def ask(asked):
        keeping._sources.cache_clear()  # as in a process of its own
        times = []
        made = keeping.kept_variants(asked, lambda: times.append(1) or variants(asked), tmp_path / "kept")
        return made, len(times)

    return ask


def test_the_same_words_give_the_same_variants(kept):
    made, times = kept(ASKED)
    again, no_times = kept(dict(ASKED))
    assert (times, no_times) == (1, 0)
    assert again == made == variants(ASKED)
    assert [one.overrides for one in again] == [one.overrides for one in made]
    assert [one.arguments(one.groups) for one in again] == [one.arguments(one.groups) for one in made]


def test_other_words_are_composed(kept):
    kept(ASKED)
    made, times = kept({**ASKED, "overrides": "train.epochs=4"})
    assert times == 1 and {one.config["train"]["epochs"] for one in made} == {4}


def test_a_changed_file_of_conf_is_composed_again(conf, kept):
    kept(ASKED)
    file = conf / "calib" / "hist64.yaml"
    file.write_text(file.read_text().replace("utterances: 64", "utterances: 65"))
    made, times = kept(ASKED)
    assert times == 1 and made[0].config["calib"]["utterances"] == 65


def test_another_environment_is_composed_again(kept, monkeypatch):
    asked = {"experiment": "local_speech"}
    monkeypatch.setenv("EARSHOT_SPEECH", "one")
    assert {one.config["corpus"]["root"] for one in kept(asked)[0]} == {"one"}
    monkeypatch.setenv("EARSHOT_SPEECH", "another")
    assert {one.config["corpus"]["root"] for one in kept(asked)[0]} == {"another"}
    monkeypatch.setenv("EARSHOT_SPEECH", "one")
    assert kept(asked)[1] == 0


def test_a_damaged_file_is_made_again(kept, tmp_path):
    made, _ = kept(ASKED)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_text(file.read_text()[:-100])
    again, times = kept(ASKED)
    assert times == 1 and again == made


def test_where_nothing_can_be_written_they_are_made(kept, tmp_path):
    (tmp_path / "kept").write_text("no folder")
    assert kept(ASKED)[0] == variants(ASKED)


def test_what_was_wrong_is_said_each_time(kept):
    for _ in range(2):
        with pytest.raises(ConfigError, match="did you mean"):
            kept({"overrides": "train.epoch=3"})


def test_few_files_are_kept(tmp_path):
    for number in range(keeping.KEPT + 5):
        assert keeping.kept(["number", number], lambda number=number: number, tmp_path) == number
    assert len(list(tmp_path.iterdir())) == keeping.KEPT
    assert keeping.kept(["number", keeping.KEPT + 4], lambda: None, tmp_path) == keeping.KEPT + 4


def test_what_a_search_proposed_is_kept_as_it_was_made(tmp_path):
    (search,) = variants({"experiment": "search"})
    found = [uniform("int8_pc", "hist64"), uniform("mixed", "minmax64")]
    asked = [search.overrides, [one.content() for one in found]]
    made = keeping.kept_variants(asked, lambda: proposed(search, found), tmp_path)
    assert [one.choices["quant"] for one in made] == ["int8_pc", "mixed"]
    assert keeping.kept_variants(asked, lambda: pytest.fail("composed again"), tmp_path) == made


def test_a_changed_file_of_the_package_is_read_again(tmp_path, monkeypatch):
    package = shutil.copytree(source_digest.PACKAGE, tmp_path / "earshot", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(keeping, "__file__", str(package / "keeping.py"))

    def times() -> int:
        keeping._sources.cache_clear()
        made = []
        keeping.kept("source_digests", lambda: made.append(1), tmp_path / "kept")
        return len(made)

    assert [times(), times()] == [1, 0]
    for file in ("model/attention.py", "lower/device/front_end.c"):
        with open(package / file, "a") as source:
            source.write("\n")
        assert [times(), times()] == [1, 0]


def test_each_stage_has_a_digest():
    digests = source_digest.source_digests()
    assert {"corpus", "train", "quantize", "tosa", "lower", "evaluate", "report"} <= digests.keys()
    assert digests["lower"] == source_digest.source_digest("lower") != digests["tosa"]
