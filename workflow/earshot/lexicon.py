"""Lexica: the words that a search with a language model may find, and the pieces that spell them: a line `WORD PIECE PIECE ...` each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from earshot.decode import UNKNOWN
from earshot.errors import ArtifactError, DataError
from earshot.files import atomic
from earshot.tokenizer import BLANK, Tokenizer


def read(path: str | Path, pieces: Sequence[str]) -> list[tuple[str, str]]:
    """The words of a lexicon, each with its pieces, a space between two; a word may stand there several times, spelled otherwise.

    Raises:
        ArtifactError: no such file, nothing in it, a word without a spelling, or with a piece that is none of `pieces`.
    """
    known, found = set(pieces) - {BLANK, UNKNOWN}, []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "not a text in UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        remedy = "give a text with a word and its pieces in each line, or make one by python -m earshot.stages.lexicon"
        raise ArtifactError(f"decode.lexicon={path}: cannot be read ({reason}); {remedy}") from error
    for number, line in enumerate(lines, 1):
        word, *spelling = line.split() or [""]
        if word and not spelling:
            raise ArtifactError(f"{path}: line {number}: {word!r} has no pieces; write WORD PIECE PIECE ...")
        if unknown := [piece for piece in spelling if piece not in known]:
            raise ArtifactError(
                f"{path}: line {number}: {word!r} has the piece {unknown[0]!r}, which the model's tokenizer lacks; "
                "spell the words by the tokenizer that the model was trained with (python -m earshot.stages.lexicon)"
            )
        if word:
            found.append((word, " ".join(spelling)))
    if not found:
        raise ArtifactError(f"{path}: no words in it; write WORD PIECE PIECE ... in each line")
    return found


def write(path: str | Path, words: Iterable[str], tokenizer: Tokenizer) -> tuple[int, list[str]]:
    """Spell `words` as the tokenizer spells transcripts. Returns the number that is spelled, and those that have a letter that it lacks.

    Raises:
        DataError: it can spell none of them; nothing is written.
    """
    pieces, spelled, left_out = tokenizer.pieces, 0, []
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for word in words:
            spelling = [pieces[i] for i in tokenizer.encode(word)]
            if UNKNOWN in spelling:
                left_out.append(word)
                continue
            stream.write(f"{word}\t{' '.join(spelling)}\n")
            spelled += 1
        if not spelled:
            shown = ", ".join(left_out[:3])
            raise DataError(
                f"none of the {len(left_out)} words of the language model ({shown} ...) can be spelled by the tokenizer; "
                "take a language model of such transcripts as the tokenizer was made of, in their capitals or small letters"
            )
    return spelled, left_out
