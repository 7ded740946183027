"""The recognizer that ships with earshot, on speech of people it has not heard."""

import json
import sys

import jiwer
from real_speech import ROOT, needs_speech

from earshot.config import CONF_DIR
from earshot.model import checkpoint
from earshot.stages import transcribe

MODEL = CONF_DIR.parent / "workflow" / "pretrained" / "npu_xs_9h"
LARGEST_BYTES = 25_000_000


def test_it_is_a_model_directory_that_is_small_enough_to_ship():
    assert (MODEL / checkpoint.WEIGHTS).stat().st_size < LARGEST_BYTES
    recognizer = checkpoint.load(MODEL)
    assert recognizer.model.output.out_features == len(recognizer.pieces)


@needs_speech
def test_it_hears_about_half_of_the_words(monkeypatch, capsys):
    transcripts = dict(
        line.split(" ", 1) for path in (ROOT / "test-clean").rglob("*.trans.txt") for line in path.read_text().splitlines() if line
    )
    audio = sorted(path for path in (ROOT / "test-clean").rglob("*.flac") if path.stem in transcripts)
    monkeypatch.setattr(sys, "argv", ["transcribe", f"program={MODEL}", f"audio={','.join(map(str, audio))}", "output=json"])
    transcribe.main()
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == len(audio) >= 4
    assert jiwer.wer([transcripts[path.stem] for path in audio], [one["text"] for one in found]) < 0.65
