"""Error rates: counts equal jiwer's, empty texts are handled, intervals behave."""

import jiwer
import numpy as np
import pytest

from earshot.metrics import accuracy, compare, confused, wer_difference

REFERENCES = ["TURN ON THE LIGHT", "STOP", "SET A TIMER FOR TEN MINUTES", "PLAY SOME MUSIC", "WHAT'S THE TIME"]
HYPOTHESES = ["TURN OF THE LIGHTS", "", "SET TIMER FOR TEN MINUTES PLEASE", "PLAY SOME MUSIC", "WHAT IS TIME"]


def rows_of(references, hypotheses):
    return [
        compare(str(i), 1.0, reference, hypothesis) for i, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True))
    ]


def test_corpus_counts_equal_jiwer():
    found, words = accuracy(rows_of(REFERENCES, HYPOTHESES), 0, 0), jiwer.process_words(REFERENCES, HYPOTHESES)
    for key in ("hits", "substitutions", "deletions", "insertions"):
        assert found[key] == getattr(words, key), key
    assert found["wer"] == pytest.approx(words.wer)
    assert found["cer"] == pytest.approx(jiwer.cer(REFERENCES, HYPOTHESES))
    assert found["words"] == sum(len(reference.split()) for reference in REFERENCES)
    assert found["utterances"] == len(REFERENCES)
    assert "wer_ci95" not in found


def test_the_words_that_are_confused_most_come_first():
    rows = rows_of(["TURN ON", "TURN ON", "GO NOW", "STOP"], ["TURN OFF", "TURN OFF", "GO", "PLEASE STOP"])
    assert confused(rows) == [["ON", "OFF", 2], ["", "PLEASE", 1], ["NOW", "", 1]]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [  # hits, substitutions, deletions, insertions
        ("A B C", "A B C", (3, 0, 0, 0)),
        ("A B C", "A X C", (2, 1, 0, 0)),
        ("A B C", "A C", (2, 0, 1, 0)),
        ("A C", "A B C", (2, 0, 0, 1)),
        ("A B", "", (0, 0, 2, 0)),
        ("", "A B", (0, 0, 0, 2)),
        ("", "", (0, 0, 0, 0)),
    ],
)
def test_counts_of_one_utterance(reference, hypothesis, counts):
    row = compare("u", 2.5, reference, hypothesis)
    assert (row.hits, row.substitutions, row.deletions, row.insertions) == counts
    assert row.words == len(reference.split())
    assert row.errors == sum(counts[1:])


def test_words_recognized_in_silence_count_against_the_corpus():
    assert accuracy(rows_of(["A B", ""], ["A B", "C"]), 0, 0)["wer"] == 0.5


def synthetic(count: int, error: float, seed: int):
    """`count` utterances of ten words of which a part is wrong."""
    generator = np.random.default_rng(seed)
    words = [["W"] * 10 for _ in range(count)]
    said = [" ".join("X" if generator.random() < error else word for word in line) for line in words]
    return rows_of([" ".join(line) for line in words], said)


def test_interval_contains_the_estimate_narrows_with_data_and_depends_on_the_seed_alone():
    widths = []
    for count in (30, 120, 480):
        found = accuracy(synthetic(count, 0.2, 1), 500, 3)
        low, high = found["wer_ci95"]
        assert low < found["wer"] < high
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 1.5**2 * widths[2]
    assert accuracy(synthetic(30, 0.2, 1), 500, 3) == accuracy(synthetic(30, 0.2, 1), 500, 3)
    assert accuracy(synthetic(30, 0.2, 1), 500, 3)["wer_ci95"] != accuracy(synthetic(30, 0.2, 1), 500, 4)["wer_ci95"]


def test_interval_covers_the_true_rate_about_as_often_as_it_says():
    inside = 0
    for seed in range(60):
        low, high = accuracy(synthetic(60, 0.2, 100 + seed), 200, seed)["wer_ci95"]
        inside += low <= 0.2 <= high
    assert inside >= 50


def test_paired_difference_sees_what_separate_intervals_hide():
    base = synthetic(200, 0.3, 5)
    better = [compare(row.id, 1.0, row.reference, row.hypothesis.replace("X", "W", 1)) for row in base]
    found = wer_difference(better, base, 500, 0)
    low, high = found["wer_difference_ci95"]
    assert low < found["wer_difference"] < high < 0
    separate = accuracy(base, 500, 0)["wer_ci95"]
    assert high - low < separate[1] - separate[0]
    assert wer_difference(base, base, 100, 0) == {"wer_difference": 0.0, "wer_difference_ci95": [0.0, 0.0]}
