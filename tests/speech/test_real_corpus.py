"""Real LibriSpeech, as it was published."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from real_speech import ROOT, needs_speech

from earshot import files
from earshot.config import LibriSpeech
from earshot.corpus import librispeech
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.corpus.prepare import prepare
from earshot.errors import DataError

pytestmark = needs_speech


def config(root: Path, test: str = "test-other", **values) -> LibriSpeech:
    subsets = {"train_subsets": ["train-clean-5"], "dev_subsets": ["dev-clean"], "test_subsets": [test]}
    return LibriSpeech(root=str(root), download=False, **subsets, **values)


@pytest.mark.parametrize(
    "test,expected",
    [
        ("test-other", {"train": (105, 28, 18.6), "dev": (14, 2, 1.6), "test": (100, 10, 12.8)}),
        ("test-clean", {"train": (105, 28, 18.6), "dev": (14, 2, 1.6), "test": (4, 1, 0.35)}),
    ],
)
def test_every_utterance_is_found_and_whole(tmp_path, test, expected):
    cfg = config(ROOT, test)
    prepare(*librispeech.locate(cfg), cfg, cfg.jobs, tmp_path)
    summary = files.read_json(tmp_path / "summary.json")
    for split, (utterances, speakers, minutes) in expected.items():
        found = summary["splits"][split]
        assert (found["utterances"], found["speakers"]) == (utterances, speakers)
        assert 60 * found["hours"] == pytest.approx(minutes, abs=0.06)
        assert sum(1 for _ in load_cuts(tmp_path / f"{split}.cuts.jsonl.gz")) == utterances
    assert summary["skipped"] == 0 and summary["warnings"] == []
    assert files.read_json(tmp_path / "bad.json")["utterances"] == []


def test_cut_has_the_official_text_and_all_samples(tmp_path):
    cfg = config(ROOT)
    prepare(*librispeech.locate(cfg), cfg, cfg.jobs, tmp_path)
    cut = next(cut for cut in load_cuts(tmp_path / "train.cuts.jsonl.gz") if cut.id == "1088-134315-0000")
    assert cut.supervisions[0].text.startswith("AS YOU KNOW AND AS I HAVE GIVEN YOU PROOF") and cut.supervisions[0].speaker == "1088"
    assert len(read_audio(cut.recording.sources[0].source)) == cut.num_samples == 256640


def test_real_file_cut_short_is_found(tmp_path):
    for subset in ("train-clean-5", "dev-clean", "test-clean"):
        speaker = sorted((ROOT / subset).iterdir())[0]
        shutil.copytree(speaker, tmp_path / "LibriSpeech" / subset / speaker.name)
    path = sorted((tmp_path / "LibriSpeech").rglob("*.flac"))[-1]
    path.write_bytes(path.read_bytes()[:-100])  # the last frame only
    cfg = config(tmp_path / "LibriSpeech", "test-clean")
    with pytest.raises(DataError, match=rf"1 bad utterance, .*\n.*{path.name}: "):
        prepare(*librispeech.locate(cfg), cfg, cfg.jobs, tmp_path / "out")
