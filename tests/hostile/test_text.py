"""Transcripts, pieces and manifests of any characters: used, or told with the file; nothing that a terminal would act on."""

from __future__ import annotations

import gzip
import json
import os
import re

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from trying import tries

from earshot.config import LibriSpeech
from earshot.config import Tokenizer as Config
from earshot.corpus import scan
from earshot.corpus.manifest import Item, load_cuts, write_cuts
from earshot.corpus.prepare import prepare
from earshot.errors import ArtifactError, DataError
from earshot.tokenizer import BLANK, Tokenizer, read_pieces, train, write_pieces

KEY = "1-7-0000"


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "all" / "1" / "7"
    folder.mkdir(parents=True)
    soundfile.write(folder / f"{KEY}.flac", 0.1 * np.random.default_rng(0).standard_normal(8000), 16000, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train(["THE CAT SAT ON THE MAT", "IT'S RAINING AGAIN", "GO HOME"], Config(vocab_size=16), path)
    return Tokenizer(path)


@tries(6)  # each starts a process
@given(st.lists(st.tuples(st.sampled_from([KEY, f"{KEY} ", ""]), st.text() | st.text("ab' ") | st.binary()), min_size=10, max_size=40))
def test_every_line_of_a_transcript_is_used_or_told(chapter, lines):
    content = b"\n".join(key.encode() + (text if isinstance(text, bytes) else text.encode(errors="surrogatepass")) for key, text in lines)
    (chapter / "1-7.trans.txt").write_bytes(content)
    found = list(scan.scan([chapter], LibriSpeech(root=str(chapter)), 1, "checking"))
    assert KEY in {one.id for one in found}
    for one in found:
        if isinstance(one, Item):
            assert re.fullmatch(r"[A-Z']+( [A-Z']+)*", one.text) and one.samples == 8000
        else:
            assert one.reason.isprintable()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a b;c'd\"e\nf$(g)", "Zoë".encode()], ids=["no UTF-8", "shell", "letters"])
@pytest.mark.parametrize("on_bad", ["fail", "skip"])
def test_a_folder_of_any_name_is_read_or_told(chapter, tmp_path, name, on_bad):
    folder = tmp_path / "all" / "1" / os.fsdecode(name)
    folder.mkdir(parents=True)
    (folder / f"{KEY}.flac").write_bytes((chapter / f"{KEY}.flac").read_bytes())
    (folder / "1-7.trans.txt").write_text(f"{KEY} GO HOME\n")
    cfg = LibriSpeech(root=str(tmp_path), on_bad=on_bad)
    (tmp_path / "out").mkdir()
    if name == b"\xff\xfe":
        with pytest.raises(DataError, match=r"rename it|no usable utterance"):
            prepare(tmp_path, {"test": ["all"]}, cfg, 1, tmp_path / "out")
        assert "is not; rename it" in (tmp_path / "out" / "bad.json").read_text()
    else:
        prepare(tmp_path, {"test": ["all"]}, cfg, 1, tmp_path / "out")
        (cut,) = load_cuts(tmp_path / "out" / "test.cuts.jsonl.gz")
        assert cut.recording.sources[0].source == str(folder / f"{KEY}.flac")


@tries(100)
@given(st.text())
def test_any_text_has_pieces(tokenizer, text):
    ids = tokenizer.encode(text)
    assert all(0 < i < len(tokenizer.pieces) for i in ids) and tokenizer.unknown(text) <= len(ids)


@tries(50)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1)))
def test_pieces_come_back_whatever_they_hold(tmp_path, pieces):
    write_pieces(tmp_path / "pieces", [BLANK, *pieces])
    assert read_pieces(tmp_path / "pieces") == [BLANK, *pieces]


@tries(30)
@given(st.binary())
def test_a_file_of_pieces_that_is_none_is_told(tmp_path, content):
    (tmp_path / "pieces").write_bytes(content)
    with pytest.raises(ArtifactError, match="run the tokenizer step again"):
        read_pieces(tmp_path / "pieces")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
CUT = Item(KEY, "a.flac", "1", "GO HOME", 8000, "").cut().to_dict()


@st.composite
def lines(draw) -> bytes:
    """A line of a manifest with something wrong in it."""
    if draw(st.booleans()):
        return draw(st.binary().map(lambda data: data.replace(b"\n", b"")) | JSON.map(json.dumps).map(str.encode))
    key = draw(st.sampled_from(sorted(CUT)))
    changed = {**CUT, key: draw(JSON)} if draw(st.booleans()) else {k: v for k, v in CUT.items() if k != key}
    return json.dumps(changed).encode()


@tries(60)
@given(lines())
def test_a_broken_line_of_a_manifest_is_told(tmp_path, line):
    path = tmp_path / "train.cuts.jsonl.gz"
    with write_cuts(path) as writer:
        writer.write(Item(KEY, "a.flac", "1", "GO HOME", 8000, ""))
    good = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(good + line + b"\n" + good))
    try:
        cuts = list(load_cuts(path))
    except ArtifactError as error:
        assert str(error).startswith(f"{path}: damaged manifest") and "\n" not in str(error)
    else:
        assert {type(cut).__name__ for cut in cuts} == {"MonoCut"}
