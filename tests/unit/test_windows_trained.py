"""What windows cost a trained model: its WER over windows against whole utterances, on clips of many lengths.

Needs what the demo leaves under results/ (EARSHOT_RESULTS names another folder).
"""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from earshot.config import SAMPLE_RATE_HZ, Decode, Window
from earshot.corpus.manifest import read_audio
from earshot.decoders import Decoder
from earshot.evaluate import utterances
from earshot.metrics import accuracy, compare, wer_difference
from earshot.pipeline import variants
from earshot.recognizers import open_model

RESULTS = Path(os.environ.get("EARSHOT_RESULTS", Path(__file__).parents[2] / "results"))
MODEL, MANIFEST = RESULTS / "train" / "conformer_xs-synth", RESULTS / "corpus" / "synth" / "test.cuts.jsonl.gz"
TOLERANCE = 0.002  # of the WER: 0.2 points


needs_demo = pytest.mark.skipif(
    not ((MODEL / "model.safetensors").exists() and MANIFEST.exists()), reason=f"not under {RESULTS}: run the demo first"
)


@needs_demo
def test_windows_cost_a_trained_model_nothing(monkeypatch):
    monkeypatch.chdir(RESULTS.parent)  # the manifest's paths are relative to where the workflow ran
    window = Window(**variants({"sweep": "quant=int8_pc"})[0].config["window"])  # that of all variants of the demo
    windowed, full = open_model(MODEL, window)
    rows = {"windowed": [], "full": []}
    lengths = []
    for clip, (audio, reference) in enumerate(clips(list(utterances(MANIFEST)))):
        features = full.front_end(audio)
        lengths.append(len(audio) / SAMPLE_RATE_HZ)
        for name, form in (("windowed", windowed), ("full", full)):
            rows[name].append(compare(str(clip), lengths[-1], reference, form.recognize(features, Decoder(form.pieces, Decode()))[0].text))
    assert min(lengths) < window.seconds / 2 < 2 * window.seconds < max(lengths), "clips shorter than a window and of several windows"
    found = wer_difference(rows["windowed"], rows["full"], 1000, 0)  # of one training; another one's may be a few words off
    assert found["wer_difference_ci95"][0] <= TOLERANCE, f"{len(lengths)} clips of {min(lengths):.1f} to {max(lengths):.1f} s: {found}"


@needs_demo
def test_a_cache_gives_back_words_that_short_windows_lose(monkeypatch):
    monkeypatch.chdir(RESULTS.parent)
    wer = {}
    for left_context_s in (0.0, 2.0):
        form = open_model(MODEL, Window(2.0, 0.5, left_context_s))[0]
        pairs = list(clips(list(utterances(MANIFEST))[:64]))[64:]
        decoder = Decoder(form.pieces, Decode())
        texts = [form.recognize(form.front_end(audio), decoder)[0].text for audio, _ in pairs]
        rows = [compare(str(i), 1.0, text, found) for i, ((_, text), found) in enumerate(zip(pairs, texts, strict=True))]
        wer[left_context_s] = accuracy(rows, 0, 0)["wer"]
    assert wer[2.0] < 0.8 * wer[0.0], wer


def clips(items):
    """Every utterance alone, and with its successor: speech of 1 to about 15 s with the words that are spoken in it."""
    for item in items:
        yield read_audio(item.audio), item.reference
    for one, other in pairwise(items):
        yield np.concatenate([read_audio(one.audio), read_audio(other.audio)]), f"{one.reference} {other.reference}"
