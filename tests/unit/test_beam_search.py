"""Beam search, with and without a language model: by hand-written frames, and an ARPA that is counted here."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
import torch
from counted_arpa import write_arpa

from earshot import language_model
from earshot.beam_search import merge_runs
from earshot.config import Decode
from earshot.decode import best_path, text
from earshot.decoders import Decoder
from earshot.errors import ArtifactError, ConfigError
from earshot.word_times import spans

PIECES = ["<blank>", "<unk>", "▁TURN", "▁ON", "▁OFF", "▁THE", "▁LIGHT", "▁LIT", "S", "▁STOP"]
BLANK, TURN, ON, OFF, THE, LIGHT, LIT, S, STOP = 0, *range(2, 10)
SENTENCES = ["TURN ON THE LIGHT", "TURN OFF THE LIGHT", "TURN ON THE LIGHTS", "STOP"] * 5
LEXICON = ["TURN ▁TURN", "ON ▁ON", "OFF ▁OFF", "THE ▁THE", "LIGHT ▁LIGHT", "LIGHTS ▁LIGHT S", "LIT ▁LIT", "STOP ▁STOP"]


def frames(*shares: dict[int, float]) -> torch.Tensor:
    """Log-probabilities [T', V] of frames, each given by its likely outputs; the rest is shared by the others."""
    found = torch.full((len(shares), len(PIECES)), 0.0)
    for row, share in zip(found, shares, strict=True):
        row[:] = (1 - sum(share.values())) / (len(PIECES) - len(share))
        for output, value in share.items():
            row[output] = value
    return found.log()


def said(*path: int) -> torch.Tensor:
    return frames(*({output: 0.9} for output in path))


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> dict[str, str]:
    """The files of a language model, as keys of decode."""
    folder = tmp_path_factory.mktemp("lm")
    (folder / "lexicon.txt").write_text("\n".join(LEXICON) + "\n")
    return {"lm": str(write_arpa(folder / "lm.arpa.gz", SENTENCES)), "lexicon": str(folder / "lexicon.txt")}


def words(logits: torch.Tensor, **config) -> str:
    return Decoder(PIECES, Decode(**config))(logits, 0.04)[0].text


def test_prefix_search_adds_up_paths_where_the_best_path_takes_one():
    """Two frames, each most likely blank: 0.36 of saying nothing, and 0.64 of saying it once, by three paths (Hannun et al., 2014)."""
    logits = frames({BLANK: 0.6, STOP: 0.3999}, {BLANK: 0.6, STOP: 0.3999})
    assert words(logits) == ""
    (best,) = Decoder(PIECES, Decode(method="beam"))(logits, 0.04)
    assert best.text == "STOP" and math.exp(best.score) == pytest.approx(0.64, abs=2e-3)


def test_n_best_scores_are_the_probabilities_of_their_texts():
    """Against the sum over all paths, enumerated."""
    logits = torch.randn(4, len(PIECES), generator=torch.Generator().manual_seed(3)).mul(2).log_softmax(-1)
    of_texts: Counter[str] = Counter()
    for path in product(range(len(PIECES)), repeat=len(logits)):
        pieces = [span.piece for span in spans(path)]
        of_texts[text(pieces, PIECES)] += math.exp(sum(logits[t, output].item() for t, output in enumerate(path)))
    found = Decoder(PIECES, Decode(method="beam", nbest=5, beam_size=5000, beam_threshold=1000.0))(logits, 0.04)
    assert [one.text for one in found] == [name for name, _ in of_texts.most_common(5)]
    assert [math.exp(one.score) for one in found] == pytest.approx([value for _, value in of_texts.most_common(5)], rel=1e-3)


def test_a_language_model_corrects_an_ambiguous_word(lm):
    logits = frames({TURN: 0.9}, {ON: 0.9}, {THE: 0.9}, {LIT: 0.55, LIGHT: 0.4}, {BLANK: 0.9})
    assert words(logits) == words(logits, method="beam") == "TURN ON THE LIT"
    assert words(logits, method="lm", lm_weight=0.0, **lm) == "TURN ON THE LIT"
    found = Decoder(PIECES, Decode(method="lm", nbest=3, **lm))(logits, 0.04)
    assert found[0].text == "TURN ON THE LIGHT"
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert len({one.text for one in found}) == 3


def test_merged_frames_have_the_best_path_of_every_piece():
    """Against all paths through the run that say the piece once."""
    run = torch.randn(3, len(PIECES), generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    run[:, TURN] += 5.0
    (merged,), lengths = merge_runs(run)
    assert lengths == [3]
    for piece in range(len(PIECES)):
        wanted = [] if piece == BLANK else [piece]
        paths = [path for path in product((BLANK, piece), repeat=3) if [span.piece for span in spans(path)] == wanted]
        assert merged[piece].item() == pytest.approx(max(sum(run[t, output].item() for t, output in enumerate(path)) for path in paths))


def test_only_words_of_the_lexicon_are_found(lm):
    logits = frames({TURN: 0.9}, {S: 0.9}, {BLANK: 0.9}, {OFF: 0.9})
    assert words(logits, method="beam") == "TURNS OFF"
    assert set(words(logits, method="lm", **lm).split()) <= {line.split()[0] for line in LEXICON}


@pytest.mark.parametrize("config", [{}, {"method": "beam"}, {"method": "lm"}], ids=["greedy", "beam", "lm"])
def test_words_have_the_times_of_their_frames(lm, config):
    """Pieces of one frame and of several, at the end of a word too, with the next word right after it; a word of two pieces."""
    logits = said(BLANK, TURN, TURN, BLANK, ON, BLANK, THE, THE, LIGHT, LIGHT, S, S, S, BLANK, BLANK)
    logits[8] = frames({LIGHT: 0.6, LIT: 0.3})
    if config.get("method") == "lm":
        config |= lm
    (found,) = Decoder(PIECES, Decode(**config))(logits, 0.04)
    assert found.text == "TURN ON THE LIGHTS"
    times = [(word.word, round(word.start_s / 0.04), round(word.end_s / 0.04)) for word in found.words]
    assert times == [("TURN", 1, 3), ("ON", 4, 5), ("THE", 6, 8), ("LIGHTS", 8, 13)]
    assert [word.confidence for word in found.words] == pytest.approx([0.9] * 4, abs=1e-3)


def test_a_word_is_as_sure_as_its_least_likely_piece():
    logits = frames({LIGHT: 0.95}, {S: 0.7, BLANK: 0.2}, {BLANK: 0.9}, {STOP: 0.5, ON: 0.3})
    (found,) = Decoder(PIECES, Decode())(logits, 0.04)
    assert [(word.word, word.confidence) for word in found.words] == [("LIGHTS", 0.7), ("STOP", 0.5)]


@pytest.mark.parametrize("method", ["greedy", "beam", "lm"])
def test_blank_penalty_brings_a_word_back(lm, method):
    config = {"method": method, **(lm if method == "lm" else {})}
    logits = frames({TURN: 0.9}, {BLANK: 0.9}, {BLANK: 0.8, ON: 0.15}, {BLANK: 0.9}, {THE: 0.9}, {LIGHT: 0.9})
    before = logits.clone()
    assert words(logits, **config, **({"lm_weight": 0.0} if method == "lm" else {})) == "TURN THE LIGHT"
    assert words(logits, blank_penalty=2.0, **config) == "TURN ON THE LIGHT"
    assert torch.equal(logits, before)


def test_greedy_words_are_those_of_the_best_path():
    for seed in range(5):
        logits = torch.randn(40, len(PIECES), generator=torch.Generator().manual_seed(seed)) * 3
        assert words(logits) == text(best_path(logits), PIECES)
        assert words(logits, blank_penalty=1.5) == text(best_path(logits, 1.5), PIECES)


def test_any_frames_can_be_decoded(lm):
    """Words, their times and their order are sound whatever the network says; no frames are no words."""
    for method in ("greedy", "beam", "lm"):
        decoder = Decoder(PIECES, Decode(method=method, **(lm if method == "lm" else {})))
        assert decoder(torch.zeros(0, 1), 0.04)[0].text == ""
        for seed in range(4):
            logits = torch.randn(30, len(PIECES), generator=torch.Generator().manual_seed(seed)) * 2
            (found,) = decoder(logits, 1.0)
            assert found.text.split() == [word.word for word in found.words]
            times = [time for word in found.words for time in (word.start_s, word.end_s)]
            assert times == sorted(times) and all(0 <= time <= 30 for time in times)
            assert all(word.start_s < word.end_s and 0 < word.confidence <= 1 for word in found.words)


def test_the_words_of_an_arpa_are_listed(lm):
    assert sorted(language_model.words(lm["lm"])) == ["LIGHT", "LIGHTS", "OFF", "ON", "STOP", "THE", "TURN"]


def test_words_that_the_language_model_does_not_know_are_told(lm, capsys):
    Decoder(PIECES, Decode(method="lm", **lm))
    assert "does not know 1 of 8 words" in (told := capsys.readouterr().err) and told.strip().endswith("LIT")


@pytest.mark.parametrize(
    ("change", "content", "error", "message"),
    [
        ("lm", None, ArtifactError, r"decode.lm=.*: no such file; give an ARPA file or a KenLM binary"),
        ("lm", b"hello\n", ArtifactError, r"decode.lm=.*: cannot be read as a language model \(.*; give an ARPA"),
        ("lm", b"\x1f\x8b\x08\x00", ArtifactError, r"decode.lm=.*: cannot be read as a language model"),
        ("lm", "lower", ConfigError, r"knows none of the 8 words of decode.lexicon=.*capitals or small letters"),
        ("lexicon", None, ArtifactError, r"decode.lexicon=.*: cannot be read \(No such file.*stages.lexicon"),
        ("lexicon", b"\xff\xfe", ArtifactError, r"decode.lexicon=.*not a text in UTF-8"),
        ("lexicon", b"\n", ArtifactError, r"no words in it"),
        ("lexicon", b"STOP \xe2\x96\x81STOP\nON\n", ArtifactError, r"line 2: 'ON' has no pieces"),
        ("lexicon", b"STOP \xe2\x96\x81ST OP\n", ArtifactError, r"line 1: 'STOP' has the piece '▁ST', which the model's tokenizer lacks"),
    ],
)
def test_files_that_do_not_fit_are_named_with_a_remedy(lm, tmp_path, change, content, error, message):
    path = tmp_path / "file"
    if content == "lower":
        write_arpa(path, [sentence.lower() for sentence in SENTENCES])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message) as told:
        Decoder(PIECES, Decode(method="lm", **{**lm, change: str(path)}))
    assert "\n" not in str(told.value)


def test_a_name_that_only_the_workflow_downloads_is_explained(lm):
    with pytest.raises(ArtifactError, match=r"the workflow downloads it; by itself: python -m earshot.stages.language_model"):
        Decoder(PIECES, Decode(method="lm", lm="librispeech_3gram"))
    with pytest.raises(ConfigError, match=r"add decode.lexicon=FILE"):
        Decoder(PIECES, Decode(method="lm", lm=lm["lm"]))
