"""The recognizer that ships with earshot, on speech of people it has not heard."""

import json
import os
import re
import subprocess
import sys

import jiwer
import pytest
from real_speech import ROOT, needs_speech

from earshot.config import CONF_DIR
from earshot.model import checkpoint
from earshot.stages import transcribe

CHECKOUT = CONF_DIR.parent
MODEL = CHECKOUT / "workflow" / "pretrained" / "npu_xs_9h"
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


@needs_speech
@pytest.mark.slow
def test_its_experiment_gives_an_int8_program_and_real_words(tmp_path):
    """Of `experiment=pretrained` the NPU's variant alone: WER of test-other in float and in integers, within the card's intervals."""
    sweep = "quant=int8_pc target=u85_256"
    words = ["--cores", "2", "--config", "experiment=pretrained", f"sweep={sweep}", "parity=off"]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "workflow" / "Snakefile"), "--directory", str(tmp_path)]
    (tmp_path / "workflow").symlink_to(CHECKOUT / "workflow")  # the experiment names the model from the checkout
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=3000, env={**os.environ, "EARSHOT_SPEECH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    (metrics,) = tmp_path.glob("results/variants/*/*/u85_256/metrics.json")
    found = json.loads(metrics.read_text())
    assert found["pte_bytes"] == (metrics.parent / "model.pte").stat().st_size > 1_000_000
    card = (MODEL / "README.md").read_text()
    for row, form in (("float", "float"), ("`int8_pc`, integer graph, NPU form", "integer_graph")):
        low, high = (float(end) / 100 for end in re.search(rf"\| {row} \| [\d.]+% \[([\d.]+), ([\d.]+)\]", card).groups())
        assert low <= found["accuracy"][form]["wer"] <= high
        assert found["accuracy"][form]["utterances"] == 100
