"""The offline corpus: commands spoken by espeak-ng, in LibriSpeech's layout."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from earshot import parallel
from earshot.config import SAMPLE_RATE_HZ, Synth
from earshot.corpus import effects, espeak, grammar, voices
from earshot.errors import ConfigError

LONG = 0.1  # part of the utterances that are two or three commands in a row
FIRST_SPEAKER = {"train": 1000, "dev": 5000, "test": 6000}
LONGEST_S = 8.0  # by the estimate; a slow voice may take a tenth longer
CHAPTER = 1
MAX_TRIES = 2000  # drawn sentences that are in use already, one after the other, before the grammar counts as used up


@dataclass(frozen=True)
class Planned:
    """An utterance to be made."""

    split: str
    speaker: int
    number: int
    utterance: espeak.Utterance
    seed: int  # of the effects

    @property
    def id(self) -> str:
        return f"{self.speaker}-{CHAPTER}-{self.number:04d}"

    @property
    def transcript(self) -> str:
        return self.utterance.text.replace(",", "").upper()


def _runs(text: str) -> set[str]:
    """All runs of words in `text`."""
    words = text.split()
    return {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}


def _seconds(commands: list[str], rate_wpm: int) -> float:
    """About how long an utterance will be; the mean of the voices."""
    letters = sum(len(command.replace(" ", "")) for command in commands)
    return 0.35 + 0.15 * len(commands) + 10.5 * letters / rate_wpm


def plan(cfg: Synth) -> list[Planned]:
    """All utterances of a corpus, in order: text, voice, rate, pitch; nothing is spoken yet.

    Test sentences are drawn first, then those of dev, then those of train; no sentence is said again in a split drawn later, neither alone
    nor within a longer one.

    Raises:
        ConfigError: more voices or sentences are asked for than there are.
    """
    chosen = voices.by_split(cfg)
    held_out: set[str] = set()
    planned: dict[str, list[Planned]] = {}
    for split, minutes in (("test", cfg.test_minutes), ("dev", cfg.dev_minutes), ("train", cfg.train_minutes)):
        rng = random.Random(f"{split} {cfg.seed}")
        speaker = grammar.Speaker(rng)
        said: set[str] = set()
        planned[split] = []
        seconds = 0.0
        while seconds < 60 * minutes or len(planned[split]) < len(chosen[split]):
            rate_wpm = rng.randrange(130, 176)
            commands = _new_commands(speaker, rng.choice((2, 3)) if rng.random() < LONG else 1, rate_wpm, held_out, said, split)
            voice = len(planned[split]) % len(chosen[split])
            utterance = espeak.Utterance(
                text=", ".join(commands).lower(),
                voice=chosen[split][voice],
                rate_wpm=rate_wpm,
                pitch=rng.randrange(35, 66),
                pitch_range=rng.randrange(35, 66),
                seed=rng.randrange(1 << 31),
            )
            number = len(planned[split]) // len(chosen[split])
            planned[split].append(Planned(split, FIRST_SPEAKER[split] + voice, number, utterance, rng.randrange(1 << 31)))
            seconds += _seconds(commands, utterance.rate_wpm)
        if split != "train":
            held_out |= said
    return [item for split in ("train", "dev", "test") for item in sorted(planned[split], key=lambda p: (p.speaker, p.number))]


def _new_commands(speaker: grammar.Speaker, count: int, rate_wpm: int, held_out: set[str], said: set[str], split: str) -> list[str]:
    """At most `count` commands of at most LONGEST_S together, for one utterance; added to `said`."""
    for _ in range(MAX_TRIES):
        commands = [speaker.command() for _ in range(count)]
        while _seconds(commands, rate_wpm) > LONGEST_S:
            commands.pop()
        # Training may say a sentence again; the splits that measure do not.
        if _runs(" ".join(commands)) & held_out or (split != "train" and said & set(commands)):
            continue
        said.update(commands)
        return commands
    raise ConfigError(f"corpus.{split}_minutes: the grammar has no more sentences that are in no other split; ask for fewer minutes")


@cache
def _synthesizer() -> espeak.Synthesizer:
    return espeak.Synthesizer()  # one per process; it ends with the process


@cache
def _resampler(sample_rate_hz: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(sample_rate_hz, SAMPLE_RATE_HZ)


def render(planned: Planned, cfg: Synth) -> np.ndarray:
    """int16 [samples] at SAMPLE_RATE_HZ: spoken, resampled, levelled, in a room, with noise; the seed is `planned.seed`."""
    rng = np.random.default_rng(planned.seed)
    spoken, rate = _synthesizer().speak(planned.utterance)
    speech = _resampler(rate)(torch.from_numpy(np.frombuffer(spoken, np.int16).astype(np.float32) / 32768)).double().numpy()
    speech = effects.trimmed(speech, SAMPLE_RATE_HZ)
    before, after = rng.uniform(0.1, 0.3, 2)
    speech = np.pad(speech, (int(before * SAMPLE_RATE_HZ), int(after * SAMPLE_RATE_HZ)))
    # All are drawn, used or not: what is switched off changes nothing else.
    level_dbfs, rt60, ratio_db = rng.uniform(-28, -20), rng.uniform(), rng.uniform(3, 12)
    snr_spread_db, slope = float(np.clip(rng.normal(0, 5), -10, 10)), rng.uniform(0, 1.5)
    if cfg.reverb_s is not None:
        speech = effects.in_room(speech, SAMPLE_RATE_HZ, rt60 * cfg.reverb_s, ratio_db, rng)
    if cfg.noise_snr_db is not None:
        speech = effects.with_noise(speech, cfg.noise_snr_db + snr_spread_db, slope, rng)
    return np.round(effects.at_level(speech, level_dbfs) * 32767).astype(np.int16)


def _make(planned: Planned, cfg: Synth, root: Path) -> None:
    path = root / planned.split / str(planned.speaker) / str(CHAPTER) / f"{planned.id}.flac"
    soundfile.write(path, render(planned, cfg), SAMPLE_RATE_HZ, subtype="PCM_16")


def make(cfg: Synth, root: Path) -> None:
    """Write the corpus under `root`: train/, dev/, test/ and SPEAKERS.TXT, as LibriSpeech has them.

    Raises:
        ConfigError: more voices or sentences are asked for than there are.
        DataError: espeak-ng is not installed or lacks a voice.
    """
    utterances = plan(cfg)
    transcripts: dict[Path, list[str]] = {}
    speakers: dict[int, str] = {}
    for item in utterances:
        folder = root / item.split / str(item.speaker) / str(CHAPTER)
        transcripts.setdefault(folder / f"{item.speaker}-{CHAPTER}.trans.txt", []).append(f"{item.id} {item.transcript}\n")
        speakers[item.speaker] = f"{item.speaker} | {item.split} | {item.utterance.voice}\n"
    for path, lines in transcripts.items():
        path.parent.mkdir(parents=True)
        path.write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text("; ID | SUBSET | VOICE OF ESPEAK-NG\n" + "".join(speakers.values()))
    work = partial(_make, cfg=cfg, root=root)
    for _ in parallel.ordered(work, utterances, jobs=cfg.jobs, total=len(utterances), unit="utterance", what="speaking"):
        pass
