"""The texts of a foreign checkpoint's outputs: out of its tokenizer's file, with the CTC blank where the checkpoint has it."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from earshot.decode import UNKNOWN
from earshot.errors import ArtifactError, ConfigError
from earshot.tokenizer import BLANK

BLANK_NAMES = {BLANK, "<blk>", "[blank]"}
SPECIAL = {"<unk>", "<s>", "</s>", "<pad>", "<sos/eos>"}  # they have no text
Pieces = list[str]


def read_vocabulary(path: Path) -> Pieces:
    """The pieces of a SentencePiece .model, or of a text file: a piece a line, with its index or score after it or nothing.

    A piece without a text (unknown, control, unused) is given as <unk>, which decoding skips; a blank as <blank>.

    Raises:
        ArtifactError: the file is absent or is neither, or the tokenizer falls back to bytes.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; give the tokenizer of the checkpoint as tokenizer=FILE")
    return _sentencepiece(path) if path.suffix == ".model" else _text(path)


def _sentencepiece(path: Path) -> Pieces:
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{path}: damaged or no SentencePiece model; fetch it again") from error
    indices = range(model.vocab_size())
    if any(model.is_byte(i) for i in indices):
        raise ArtifactError(f"{path}: falls back to bytes, which decoding does not join to letters; use a tokenizer without byte_fallback")
    silent = {i for i in indices if model.is_control(i) or model.is_unknown(i) or model.is_unused(i)}
    return [_named(UNKNOWN if i in silent and model.id_to_piece(i) not in BLANK_NAMES else model.id_to_piece(i)) for i in indices]


def _text(path: Path) -> Pieces:
    try:
        rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: neither a SentencePiece .model nor a text file with a piece a line") from error
    wrong = next((i for i, row in enumerate(rows) if not 1 <= len(row) <= 2), None)
    if not rows or wrong is not None:
        raise ArtifactError(f"{path}: line {(wrong or 0) + 1}: expected a piece, and nothing or its index or score after it")
    seconds = [row[1] if len(row) == 2 else "" for row in rows]
    if sorted(seconds) == sorted(map(str, range(len(rows)))):
        rows.sort(key=lambda row: int(row[1]))
    return [UNKNOWN if row[0] in SPECIAL else _named(row[0]) for row in rows]


def _named(piece: str) -> str:
    return BLANK if piece in BLANK_NAMES else piece


def outputs(pieces: Pieces, count: int, blank: int | None, source: Path) -> tuple[Pieces, list[int]]:
    """The pieces with the blank first, and for each the index of its output in the checkpoint.

    Args:
        pieces: of the tokenizer, with the blank among them or without.
        count: number of the checkpoint's outputs.
        blank: index of the blank among them, -1 for the last; None where the tokenizer names it.

    Raises:
        ArtifactError: the tokenizer has another number of pieces.
        ConfigError: `blank` is needed and absent, out of range or contradicts the tokenizer.
    """
    where = None if blank is None else blank % count
    if blank is not None and blank >= count:
        raise ConfigError(f"blank={blank}: the checkpoint has outputs 0 to {count - 1}")
    if BLANK in pieces:
        named = pieces.index(BLANK)
        if where not in (None, named):
            raise ConfigError(f"blank={blank}: {source} has {BLANK} at {named}; leave it out")
        where = named
    if len(pieces) not in ((count,) if BLANK in pieces else (count - 1, count)):
        pieces_wanted = count if BLANK in pieces else f"{count - 1} and a blank"
        raise ArtifactError(f"{source}: {len(pieces)} pieces, but the checkpoint has {count} outputs: expected {pieces_wanted}")
    if where is None:
        raise ConfigError(f"blank: {source} names no blank; add blank=INDEX, the output that is the CTC blank (0, or -1 for the last)")
    if len(pieces) == count - 1:
        pieces = [*pieces[:where], BLANK, *pieces[where:]]
    if pieces[where] not in (BLANK, UNKNOWN):
        raise ConfigError(f"blank={blank}: output {where} is the piece {pieces[where]!r} of {source}; give the output that is the blank")
    order = [where, *(i for i in range(count) if i != where)]
    return [BLANK, *(pieces[i] for i in order[1:])], order


def in_capitals(pieces: Pieces) -> Pieces:
    """The pieces in capitals, but those that stand for no text."""
    return [piece if piece in (BLANK, UNKNOWN) else piece.upper() for piece in pieces]
