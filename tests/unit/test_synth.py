"""The offline corpus: unseen voices and sentences in dev and test, the same bytes on every run, readable as LibriSpeech."""

from __future__ import annotations

import collections
import os
import shutil
import subprocess
import sys
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest
import soundfile
from lhotse.recipes import prepare_librispeech

from earshot import files
from earshot.config import Synth
from earshot.corpus import effects, espeak, grammar, synth, voices
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.corpus.prepare import prepare
from earshot.errors import ConfigError, DataError

TINY = {"train_minutes": 0.3, "dev_minutes": 0.1, "test_minutes": 0.1, "train_voices": 6, "dev_voices": 2, "test_voices": 3, "seed": 5}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A tiny corpus made by the command, by two processes."""
    out = tmp_path_factory.mktemp("synth")
    values = [f"corpus.{name}={value}" for name, value in TINY.items()]
    command = [sys.executable, "-m", "earshot.stages.corpus", "corpus=synth", "corpus.jobs=2", "out=corpus", *values]
    subprocess.run(command, cwd=out, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return out / "corpus"


def digest(cfg: Synth, out: Path) -> str:
    out.mkdir()
    synth.make(cfg, out / "speech")
    prepare(out / "speech", {split: [split] for split in ("train", "dev", "test")}, cfg, cfg.jobs, out)
    return files.read_json(out / "summary.json")["content_sha256"]


def test_same_digest_on_a_second_run_by_another_number_of_processes(corpus, tmp_path):
    expected = files.read_json(corpus / "summary.json")["content_sha256"]
    assert digest(Synth(**TINY, jobs=1), tmp_path / "again") == expected
    assert digest(Synth(**{**TINY, "seed": 6}, jobs=2), tmp_path / "other") != expected


def test_lhotse_reads_the_layout_as_librispeech(corpus):
    found = prepare_librispeech(corpus / "speech", dataset_parts=["train", "dev", "test"])
    for split in ("train", "dev", "test"):
        cuts = list(load_cuts(corpus / f"{split}.cuts.jsonl.gz"))
        theirs = {segment.id: (segment.text, segment.speaker) for segment in found[split]["supervisions"]}
        assert theirs == {cut.id: (cut.supervisions[0].text, cut.supervisions[0].speaker) for cut in cuts}
        assert {recording.sampling_rate for recording in found[split]["recordings"]} == {16000}
    info = soundfile.info(next((corpus / "speech").rglob("*.flac")))
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")


def test_asked_for_minutes_and_voices_come_out(corpus):
    splits = files.read_json(corpus / "summary.json")["splits"]
    for split, minutes, count in (("train", 0.3, 6), ("dev", 0.1, 2), ("test", 0.1, 3)):
        assert splits[split]["speakers"] == count
        assert 60 * splits[split]["hours"] == pytest.approx(minutes, abs=0.1)
    assert {path.stat().st_mode & 0o777 for path in corpus.iterdir()} <= {0o644, 0o755}


@pytest.fixture(scope="module")
def default() -> list[synth.Planned]:
    return synth.plan(Synth())


def by_split(planned: list[synth.Planned], value) -> dict[str, set]:
    found = collections.defaultdict(set)
    for item in planned:
        found[item.split] |= value(item)
    return found


def test_default_has_many_train_voices_and_no_voice_in_two_splits(default):
    names = by_split(default, lambda item: {item.utterance.voice})
    assert {split: len(found) for split, found in names.items()} == {"train": 180, "dev": 6, "test": 8}
    variants = {split: {name.split("+")[1] for name in found} for split, found in names.items()}
    assert not variants["train"] & (variants["dev"] | variants["test"]) and not variants["dev"] & variants["test"]
    assert len({name.split("+")[0] for name in names["test"]}) == len(voices.ACCENTS)
    speakers = by_split(default, lambda item: {item.speaker})
    assert sum(map(len, speakers.values())) == len(set.union(*speakers.values())) == 194


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sentences_of_dev_and_test_are_in_no_other_split(seed):
    planned = synth.plan(Synth(seed=seed))
    sentences = by_split(planned, lambda item: {command.upper() for command in item.utterance.text.split(", ")})
    said_in_train = [f" {item.transcript} " for item in planned if item.split == "train"]
    assert not sentences["dev"] & sentences["test"]
    for sentence in sentences["dev"] | sentences["test"]:
        assert not any(f" {sentence} " in said for said in said_in_train)


def test_words_are_many_and_none_is_new_in_dev_or_test(default):
    words = by_split(default, lambda item: set(item.transcript.split()))
    numbers = {*grammar.DIGITS, *grammar.TEENS, *grammar.TENS, "HUNDRED"}
    assert numbers <= words["train"] and len(words["train"] - numbers) >= 120
    assert words["dev"] | words["test"] <= words["train"] == grammar.vocabulary()
    assert all(word.isalpha() and word.isascii() and word.isupper() for word in grammar.vocabulary())


def test_some_utterances_are_several_commands_in_every_split(default):
    for split in ("train", "dev", "test"):
        several = [", " in item.utterance.text for item in default if item.split == split]
        assert 0.03 < np.mean(several) < 0.2


def test_rate_and_pitch_vary(default):
    assert len({item.utterance.rate_wpm for item in default}) > 30 and len({item.utterance.pitch for item in default}) > 20


def test_what_is_spoken_before_changes_nothing(default):
    synthesizer = espeak.Synthesizer()
    # Breath noise is random, and the Klatt synthesizer keeps filter state: of both kinds, alone and after others.
    tested = [espeak.Utterance("go to the kitchen", name, 160, 50, 50, 7) for name in ("en-us+f3", "en-us+klatt4", "en-us+m3")]
    first = [synthesizer.speak(utterance) for utterance in tested]
    for item in default[:3]:
        synthesizer.speak(item.utterance)
    assert [synthesizer.speak(utterance) for utterance in reversed(tested)] == first[::-1]
    assert len({spoken for spoken, _ in first}) == 3 and {rate for _, rate in first} == {22050}
    synthesizer.close()


def test_effects_are_off_with_null(default):
    item = default[0]
    clean = synth.render(item, Synth(noise_snr_db=None, reverb_s=None))
    noisy = synth.render(item, Synth(reverb_s=None))
    in_room = synth.render(item, Synth(noise_snr_db=None))
    assert len(clean) == len(noisy) == len(in_room)
    assert np.all(clean[:1000] == 0) and np.all(in_room[:1000] == 0) and np.std(noisy[:1000]) > 0
    assert not np.array_equal(clean, in_room)


def test_noise_has_the_ratio_asked_for():
    rng = np.random.default_rng(0)
    speech = np.sin(np.arange(32000) / 5)
    for snr_db in (0, 20):
        noise = effects.with_noise(speech, snr_db, 1.0, rng) - speech
        assert 10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.01)


def test_room_keeps_the_direct_sound_and_decays_by_sixty_decibel():
    click = np.zeros(16000)
    click[0] = 1.0
    heard = effects.in_room(click, 16000, 0.4, 6.0, np.random.default_rng(0))
    assert heard[0] == pytest.approx(1.0) and 10 * np.log10(np.sum(heard[1:] ** 2)) == pytest.approx(-6.0, abs=0.1)
    early, late = (np.mean(heard[int(t * 16000) : int(t * 16000) + 800] ** 2) for t in (0.05, 0.25))
    assert 10 * np.log10(early / late) == pytest.approx(30.0, abs=2.0)  # half of 0.4 s is half of 60 dB


def test_level_never_clips():
    loud = effects.at_level(np.r_[np.zeros(1000), 1.0, np.zeros(1000)], -20.0)
    assert np.abs(loud).max() <= 0.951
    assert np.sqrt(np.mean(effects.at_level(np.sin(np.arange(9999.0)), -20.0) ** 2)) == pytest.approx(0.1)


def test_voice_that_does_not_exist_is_told():
    synthesizer = espeak.Synthesizer()
    for name in ("en-us+nobody", "xx-nowhere"):
        with pytest.raises(DataError, match=f"espeak-ng has no voice '{name}'".replace("+", r"\+")):
            synthesizer.speak(espeak.Utterance("hello", name, 160, 50, 50, 0))
    assert len(synthesizer.speak(espeak.Utterance("hello", "en-us+m1", 160, 50, 50, 0))[0]) > 10000  # and it goes on
    synthesizer.close()


def test_more_voices_or_minutes_than_there_are(default):
    with pytest.raises(ConfigError, match=r"train_voices=1000.*ask for at most \d+"):
        voices.by_split(Synth(train_voices=1000))
    with pytest.raises(ConfigError, match=r"dev_voices . corpus.test_voices = 206"):
        voices.by_split(Synth(test_voices=200))
    assert len(set(voices.by_split(Synth(train_voices=190))["train"])) == 190


def test_missing_espeak_is_told_with_the_remedy():
    program = "import sys; sys.modules['espeakng_loader'] = None; from earshot.corpus import espeak; espeak.variants()"
    failed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "DataError: corpus=synth needs espeak-ng" in failed.stderr and "pip install espeakng-loader==0.2.4" in failed.stderr


def test_damaged_data_of_espeak_is_told(tmp_path):
    broken = tmp_path / "espeakng_loader"
    shutil.copytree(Path(espeakng_loader.__file__).parent, broken)
    (broken / "espeak-ng-data" / "phontab").unlink()
    program = "from earshot.corpus import espeak; espeak.Synthesizer().speak(espeak.Utterance('hello', 'en-us', 160, 50, 50, 0))"
    failed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert failed.returncode == 1 and f"{broken}/espeak-ng-data: espeak-ng cannot read its data; install" in failed.stderr


def test_espeak_works_below_a_long_path(tmp_path):
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    shutil.copytree(Path(espeakng_loader.__file__).parent, deep / "espeakng_loader")
    program = "from earshot.corpus.espeak import *; print(len(Synthesizer().speak(Utterance('hello', 'en-us+m1', 160, 50, 50, 0))[0]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(deep)})
    assert int(done.stdout) > 10000, done.stderr


def test_speech_is_heard_at_a_normal_level(corpus):
    for path in (corpus / "speech").rglob("*.flac"):
        samples = read_audio(path)
        assert -32 < 20 * np.log10(samples.std()) < -18 and np.abs(samples).max() < 0.96
