"""Which speech a program is calibrated on, and which ranges follow from it."""

from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from stage_command import fails
from tiny_recognizer import write_corpus, write_model

from earshot.config import SAMPLE_RATE_HZ, Calib
from earshot.quantize import calibrate
from earshot.quantize.observers import PercentileObserver

SECONDS = [0.5 + 0.1 * i for i in range(16)]  # of two speakers, in turn


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibration") / "corpus"
    write_corpus(folder, SECONDS, ["GO"] * len(SECONDS), "train")
    for split in ("dev", "test"):
        write_corpus(folder, SECONDS[:1], ["GO"], split)
    return folder


def drawn(corpus, **calib) -> list[calibrate.Utterance]:
    return calibrate.choose(corpus, Calib(**{"utterances": 4, **calib}))


def test_the_seed_chooses(corpus):
    assert drawn(corpus, seed=1) == drawn(corpus, seed=1)
    assert len({tuple(drawn(corpus, seed=seed)) for seed in range(5)}) > 1


def test_longest_takes_the_longest(corpus):
    assert [utterance.id for utterance in drawn(corpus, sampling="longest")] == ["train-15", "train-14", "train-13", "train-12"]


@pytest.mark.parametrize("seed", range(4))
def test_by_duration_there_is_one_of_each_length(corpus, seed):
    lengths = [utterance.duration_s for utterance in drawn(corpus, sampling="duration", utterances=5, seed=seed)]
    thirds = Counter(min(2, int((length - SECONDS[0]) / (SECONDS[-1] - SECONDS[0]) * 3)) for length in lengths)
    assert set(thirds) == {0, 1, 2} and len(set(lengths)) == 5


@pytest.mark.parametrize("sampling", ["random", "duration", "speaker", "longest"])
def test_every_utterance_can_be_drawn_and_none_twice(corpus, sampling):
    assert len({utterance.id for utterance in drawn(corpus, sampling=sampling, utterances=len(SECONDS))}) == len(SECONDS)


@pytest.mark.parametrize("seed", range(4))
def test_by_speaker_each_has_as_many(corpus, seed):
    assert set(Counter(utterance.speaker for utterance in drawn(corpus, sampling="speaker", seed=seed)).values()) == {2}


def test_seconds_take_as_many_utterances_as_last_so_long(corpus):
    chosen = drawn(corpus, seconds=6.0)
    assert sum(utterance.duration_s for utterance in chosen) >= 6.0 > sum(utterance.duration_s for utterance in chosen[:-1])


@pytest.mark.parametrize("asked", ["calib.utterances=17", "calib.seconds=1000"])
def test_too_little_speech_and_silence_are_refused(corpus, tmp_path, asked):
    write_model(tmp_path / "model")
    given = ("quant=int8_pc", "family=host", "window=2s", f"model_dir={tmp_path / 'model'}", f"out={tmp_path / 'out'}")
    message = fails("quantize", *given, asked, f"corpus_dir={corpus}")
    assert asked in message and "train.cuts.jsonl.gz" in message and "16 utterances of 20 s" in message
    assert not (tmp_path / "out").exists()


def test_a_silent_utterance_is_named(corpus, tmp_path):
    write_model(tmp_path / "model")
    write_corpus(tmp_path / "silent", SECONDS[:2], ["GO", "GO"], "train")
    for split in ("dev", "test"):
        write_corpus(tmp_path / "silent", SECONDS[:1], ["GO"], split)
    soundfile.write(tmp_path / "silent" / "train-1.flac", np.zeros(round(SECONDS[1] * SAMPLE_RATE_HZ)), SAMPLE_RATE_HZ)
    given = ("quant=int8_pc", "family=host", "window=2s", f"model_dir={tmp_path / 'model'}", f"out={tmp_path / 'out'}")
    message = fails("quantize", *given, "calib.utterances=2", f"corpus_dir={tmp_path / 'silent'}")
    assert "train-1" in message and "silent" in message
    assert not (tmp_path / "out" / "quantize.json").exists()


@pytest.mark.parametrize("percentile", [99.0, 99.9, 100.0])
def test_the_percentile_leaves_out_that_much_on_both_sides(percentile):
    values = torch.randn(200_000)
    settings = {"dtype": torch.int8, "quant_min": -128, "quant_max": 127, "qscheme": torch.per_tensor_affine}
    observer = PercentileObserver(percentile, **settings)
    for part in values.split(50_000):
        observer(part)
    scale, zero = observer.calculate_qparams()
    found = (torch.tensor([-128, 127]) - zero) * scale
    wanted = torch.tensor([1 - percentile / 100, percentile / 100])
    width = (values.max() - values.min()) / observer.bins
    allowed = 2 * width.item() + scale.item() / 2  # the range is moved until zero is an integer
    torch.testing.assert_close(found, torch.quantile(values.double(), wanted.double()).float(), atol=allowed, rtol=0)


def test_an_activation_that_is_always_the_same_has_a_range_too():
    settings = {"dtype": torch.int8, "quant_min": -128, "quant_max": 127, "qscheme": torch.per_tensor_affine, "eps": 2**-16}
    observer = PercentileObserver(99.9, **settings)
    observer(torch.full((100,), 3.0))
    scale, zero_point = observer.calculate_qparams()
    assert torch.isfinite(scale).all() and -128 <= int(zero_point) <= 127
    assert (127 - int(zero_point)) * scale.item() >= 2.9
