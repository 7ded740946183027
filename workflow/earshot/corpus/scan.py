"""From a tree in LibriSpeech's layout to checked utterances."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from earshot import parallel
from earshot.config import Corpus
from earshot.corpus.audio import read_checked
from earshot.corpus.manifest import Item
from earshot.errors import DataError

_TEXT = re.compile(r"[A-Z']+( [A-Z']+)*")
_SUFFIX = ".trans.txt"


@dataclass(frozen=True)
class Bad:
    """An utterance that cannot be used, and why: value and remedy."""

    id: str
    path: str
    reason: str


def chapters(root: Path, subset: str) -> list[Path]:
    """Folders of `root`/`subset` that hold audio or transcripts, sorted."""
    found = []
    for folder, _, names in os.walk(root / subset):
        if any(name.endswith((".flac", _SUFFIX)) for name in names):
            found.append(Path(folder))
    return sorted(found)


def scan(folders: list[Path], cfg: Corpus, jobs: int, what: str) -> Iterator[Item | Bad]:
    """Every utterance of the folders, in order, with its audio decoded and checked."""
    for found in parallel.ordered(partial(_chapter, cfg=cfg), folders, jobs=jobs, total=len(folders), unit="chapter", what=what):
        yield from found


def _chapter(folder: Path, cfg: Corpus) -> list[Item | Bad]:
    found: list[Item | Bad] = []
    audio = {path.stem: path for path in sorted(folder.glob("*.flac"))}
    heard = set()
    for transcript in sorted(folder.glob(f"*{_SUFFIX}")):
        for number, line in enumerate(transcript.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if not line.strip():
                continue
            key, _, text = line.strip().partition(" ")
            where = f"{transcript}:{number}"
            if key in heard:
                found.append(Bad(key, where, "duplicate id, an earlier line has it too; remove one of the two"))
            elif key not in audio:
                found.append(
                    Bad(key, where, f"transcript without audio, {f'{key}.flac'!r} is not in that folder; copy it there or remove the line")
                )
            else:
                found.append(_utterance(key, audio[key], where, " ".join(text.upper().split()), cfg))
            heard.add(key)
    found += [
        Bad(key, str(path), f"audio without transcript, no {_SUFFIX} file beside it has a line for {key}; add the line or remove the file")
        for key, path in audio.items()
        if key not in heard
    ]
    return found


def _utterance(key: str, path: Path, where: str, text: str, cfg: Corpus) -> Item | Bad:
    if not _TEXT.fullmatch(text):
        strange = "".join(sorted(set(re.sub(r"[A-Z' ]", "", text))))
        value = f"text holds {strange!r}" if strange else "text is empty"
        return Bad(key, where, f"{value}; only A-Z, apostrophe and space are allowed: spell it out")
    if not _is_unicode(path):
        return Bad(
            key, os.fsencode(path).decode(errors="replace"), "a manifest is UTF-8, and the name of the file or a folder is not; rename it"
        )
    try:
        samples, md5 = read_checked(path)
    except DataError as error:
        return Bad(key, str(path), str(error).removeprefix(f"{path}: "))
    item = Item(key, str(path), key.split("-")[0], text, samples, md5)
    if not cfg.min_duration_s <= item.duration_s <= cfg.max_duration_s:
        allowed = f"corpus.min_duration_s={cfg.min_duration_s:g} to corpus.max_duration_s={cfg.max_duration_s:g}"
        return Bad(key, str(path), f"lasts {item.duration_s:.2f} s, allowed is {allowed}; cut it, or change the limits")
    return item


def _is_unicode(path: Path) -> bool:
    """Whether the bytes of the path are UTF-8: Python stands surrogates for those that are not."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
