"""A LibriSpeech tree becomes manifests; what is wrong with it is told before hours are spent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from corpus_trees import SPLITS, config, write_tree

from earshot import files
from earshot.corpus import librispeech
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.corpus.prepare import prepare
from earshot.errors import ArtifactError, ConfigError, DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "LibriSpeech", SPLITS)


def run(cfg, out: Path) -> dict:
    prepare(*librispeech.locate(cfg), cfg, cfg.jobs, out)
    return files.read_json(out / "summary.json")


def test_good_tree_gives_cuts_that_lhotse_can_read_and_load(root, tmp_path):
    summary = run(config(root, jobs=2), tmp_path / "out")
    cuts = list(load_cuts(tmp_path / "out" / "train.cuts.jsonl.gz"))
    assert [cut.id for cut in cuts] == ["1-7-0000", "1-7-0001", "1-7-0002", "2-7-0000", "2-7-0001", "2-7-0002"]
    assert [cut.supervisions[0].text for cut in cuts[:2]] == ["THE CAT SAT ON THE MAT", "IT'S RAINING AGAIN"]
    assert {cut.supervisions[0].speaker for cut in cuts} == {"1", "2"}
    path = cuts[0].recording.sources[0].source
    np.testing.assert_array_equal(cuts[0].load_audio()[0], read_audio(path))
    assert (cuts[0].sampling_rate, cuts[0].duration) == (16000, 1.0)
    train = summary["splits"]["train"]
    assert (train["utterances"], train["speakers"], train["words"], train["distinct_words"]) == (6, 2, 22, 10)
    assert train["hours"] == pytest.approx(6 / 3600, abs=1e-4)
    assert summary["warnings"] == [] and summary["skipped"] == 0


def test_same_tree_elsewhere_has_the_same_content_digest_and_the_same_manifest_bytes_in_place(root, tmp_path):
    first = run(config(root), tmp_path / "a")
    moved = root.rename(tmp_path / "moved")
    second = run(config(moved, jobs=2), tmp_path / "b")
    assert first["content_sha256"] == second["content_sha256"]
    third = run(config(moved), tmp_path / "c")
    assert third["splits"]["train"]["manifest_sha256"] == second["splits"]["train"]["manifest_sha256"]
    path = moved / "train-clean-5/1/7/1-7-0000.flac"
    soundfile.write(path, read_audio(path) * 0.9, 16000, subtype="PCM_16")
    assert run(config(moved), tmp_path / "d")["content_sha256"] != first["content_sha256"]


def test_relative_root_gives_relative_audio_paths(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(config(Path("LibriSpeech")), Path("out"))
    cut = next(iter(load_cuts("out/dev.cuts.jsonl.gz")))
    assert cut.recording.sources[0].source == "LibriSpeech/dev-clean-2/3/7/3-7-0000.flac"


def test_lower_case_transcripts_are_raised_to_capitals(root, tmp_path):
    transcript = root / "train-clean-5/1/7/1-7.trans.txt"
    transcript.write_text(transcript.read_text().lower().replace("  ", " "))
    run(config(root), tmp_path / "out")
    assert next(iter(load_cuts(tmp_path / "out" / "train.cuts.jsonl.gz"))).supervisions[0].text == "THE CAT SAT ON THE MAT"


def test_speakers_in_two_splits_are_a_warning(tmp_path, capsys):
    root = write_tree(tmp_path / "LibriSpeech", {**SPLITS, "test-clean": [4]})
    shutil.copytree(root / "train-clean-5" / "2", root / "test-clean" / "2")
    for path in (root / "test-clean/2/7").iterdir():
        text = path.read_text().replace("2-7-", "2-8-") if path.suffix == ".txt" else None
        path = path.rename(path.with_name(path.name.replace("2-7-", "2-8-")))
        if text:
            path.write_text(text)
    summary = run(config(root), tmp_path / "out")
    assert len(summary["warnings"]) == 1 and "train and test (2)" in summary["warnings"][0]
    assert "warning: 1 speakers" in capsys.readouterr().err


def truncate(folder: Path) -> None:
    path = folder / "1-7-0001.flac"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "1-7-0001.flac").read_bytes())
    content[len(content) // 2] ^= 0x10
    (folder / "1-7-0001.flac").write_bytes(content)


def write(folder: Path, shape: int | tuple[int, int], rate: int = 16000) -> None:
    soundfile.write(folder / "1-7-0001.flac", np.random.default_rng(0).standard_normal(shape) * 0.1, rate, subtype="PCM_16")


def retext(folder: Path, old: str, new: str) -> None:
    path = folder / "1-7.trans.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


BAD = {
    "truncated": (truncate, "1-7-0001", "truncated"),
    "flipped bit": (flip_a_bit, "1-7-0001", "damaged"),
    "no bytes": (lambda folder: (folder / "1-7-0001.flac").write_bytes(b""), "1-7-0001", "empty, 0 bytes"),
    "no samples": (lambda folder: write(folder, 0), "1-7-0001", "empty"),
    "no audio": (lambda folder: (folder / "1-7-0001.flac").write_text("hello" * 99), "1-7-0001", "cannot be decoded"),
    "wrong rate": (lambda folder: write(folder, 8000, 8000), "1-7-0001", "sample rate 8000 Hz"),
    "stereo": (lambda folder: write(folder, (16000, 2)), "1-7-0001", "2 channels"),
    "too short": (lambda folder: write(folder, 1600), "1-7-0001", "lasts 0.10 s, allowed is corpus.min_duration_s=0.3"),
    "too long": (lambda folder: write(folder, 80000), "1-7-0001", "lasts 5.00 s"),
    "no transcript": (lambda folder: retext(folder, "1-7-0001 IT'S RAINING AGAIN\n", ""), "1-7-0001", "audio without transcript"),
    "no transcript file": (lambda folder: (folder / "1-7.trans.txt").unlink(), "1-7-0001", "audio without transcript"),
    "no audio file": (lambda folder: (folder / "1-7-0001.flac").unlink(), "1-7-0001", "transcript without audio"),
    "same line twice": (lambda folder: retext(folder, "1-7-0002 GO", "1-7-0001 GO"), "1-7-0001", "duplicate id"),
    "digit": (lambda folder: retext(folder, "AGAIN", "4 TIMES"), "1-7-0001", "text holds '4'"),
    "letter beyond A-Z": (lambda folder: retext(folder, "AGAIN", "À LA"), "1-7-0001", "text holds 'À'"),
    "no words": (lambda folder: retext(folder, " IT'S RAINING AGAIN", ""), "1-7-0001", "text is empty"),
}


@pytest.mark.parametrize("damage,key,reason", BAD.values(), ids=BAD.keys())
def test_bad_utterance_is_named_or_skipped(root, tmp_path, damage, key, reason):
    out = tmp_path / "out"
    damage(root / "train-clean-5/1/7")
    with pytest.raises(DataError, match="bad utterance") as error:
        run(config(root, max_duration_s=4.0), out)
    assert reason in str(error.value) and "1-7" in str(error.value) and "corpus.on_bad=skip" in str(error.value)
    assert not list(out.glob("*.cuts.jsonl.gz"))
    listed = files.read_json(out / "bad.json")["utterances"]
    assert any(entry["id"] == key and reason in entry["reason"] and "1-7" in entry["path"] for entry in listed)

    summary = run(config(root, max_duration_s=4.0, on_bad="skip"), out)
    assert summary["skipped"] == len(listed) > 0
    kept = {cut.id for cut in load_cuts(out / "train.cuts.jsonl.gz")}
    assert kept >= {"2-7-0000", "2-7-0001", "2-7-0002"}
    assert key not in kept or "duplicate" in reason  # of a duplicate, the first is kept


def test_id_in_two_subsets_is_a_duplicate(root, tmp_path):
    shutil.copytree(root / "train-clean-5" / "1", root / "train-clean-100" / "1")
    with pytest.raises(
        DataError, match=r"3 bad utterances.*\n.*train-clean-100/1/7/1-7-0000.flac: duplicate id, .*train-clean-5/1/7 has it too"
    ):
        run(config(root, train_subsets=["train-clean-5", "train-clean-100"]), tmp_path / "out")


def test_error_shows_the_first_few_and_the_count(tmp_path):
    root = write_tree(tmp_path / "LibriSpeech", SPLITS, utterances=8)
    for path in (root / "train-clean-5").rglob("*.flac"):
        path.write_bytes(b"")
    with pytest.raises(DataError) as error:
        run(config(root), tmp_path / "out")
    assert "16 bad utterances" in str(error.value) and "and 11 more" in str(error.value)
    assert len(files.read_json(tmp_path / "out/bad.json")["utterances"]) == 16


def test_split_without_usable_utterance(root, tmp_path):
    for path in (root / "dev-clean-2").rglob("*.flac"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"the dev split \(dev-clean-2\) has no usable utterance; 3 bad ones"):
        run(config(root, on_bad="skip"), tmp_path / "out")
    with pytest.raises(DataError, match=r"the test split \(no subset\) has no usable utterance"):
        run(config(root, on_bad="skip", dev_subsets=["train-clean-5"], train_subsets=["test-clean"], test_subsets=[]), tmp_path / "out")


def test_missing_folder_is_named_with_the_remedy(root):
    with pytest.raises(DataError, match=r"dev-clean: no such folder .*corpus.root.*corpus.download=true"):
        librispeech.locate(config(root, dev_subsets=["dev-clean"]))
    with pytest.raises(DataError, match=r"my-own: no such folder.*there are dev-clean-2, test-clean, train-clean-5 in"):
        librispeech.locate(config(root, dev_subsets=["my-own"], download=True))
    with pytest.raises(ConfigError, match=r"corpus.dev_subsets: train-clean-5 stands in corpus.train_subsets already"):
        librispeech.locate(config(root, dev_subsets=["train-clean-5"]))


def test_read_audio_tells_what_is_wrong(root, tmp_path):
    folder = root / "train-clean-5/1/7"
    samples = read_audio(folder / "1-7-0000.flac")
    assert samples.dtype == np.float32 and samples.shape == (16000,) and 0.05 < samples.std() < 0.2
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    np.testing.assert_allclose(read_audio(str(tmp_path / "a.wav")), samples, atol=1e-4)
    truncate(folder)
    with pytest.raises(DataError, match=r"1-7-0001.flac: .*truncated"):
        read_audio(folder / "1-7-0001.flac")
    with pytest.raises(DataError, match=r"absent.flac: no such file"):
        read_audio(tmp_path / "absent.flac")
    with pytest.raises(DataError, match="no such file"):
        read_audio(tmp_path)


def test_load_cuts_tells_an_absent_or_damaged_manifest(root, tmp_path):
    run(config(root), tmp_path)
    path = tmp_path / "train.cuts.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"train.cuts.jsonl.gz: damaged manifest"):
        load_cuts(path)
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="damaged manifest"):
        load_cuts(path)
    with pytest.raises(ArtifactError, match="no such manifest"):
        load_cuts(tmp_path / "other.cuts.jsonl.gz")


def test_command_on_a_good_and_a_bad_tree(root, tmp_path):
    command = [sys.executable, "-m", "earshot.stages.corpus", "corpus=local_speech", f"corpus.root={root}", "out=out"]
    subsets = ["corpus.train_subsets=[train-clean-5]", "corpus.dev_subsets=[dev-clean-2]", "corpus.test_subsets=[test-clean]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *subsets], cwd=tmp_path, check=True, env=environment)
    assert json.loads((tmp_path / "out/summary.json").read_text())["splits"]["train"]["utterances"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LibriSpeech", "out"]
    truncate(root / "train-clean-5/1/7")
    failed = subprocess.run([*command, *subsets], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "1-7-0001.flac" in failed.stderr and "corpus.on_bad=skip" in failed.stderr and "Traceback" not in failed.stderr
