"""SentencePiece: train, encode, and the `.pieces` file that maps the network's outputs to text on a device.

Output 0 of the network is the CTC blank; output i is SentencePiece's piece i - 1.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from earshot.config import Tokenizer as TokenizerConfig
from earshot.errors import ArtifactError, DataError
from earshot.files import atomic

BLANK = "<blank>"
WORD_START = "▁"


class Tokenizer:
    """Text to the network's output indices and back."""

    def __init__(self, model_path: str | Path) -> None:
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"{model_path}: not a SentencePiece model ({error}); run the tokenizer step again") from error

    @property
    def pieces(self) -> list[str]:
        """The text of each output of the network, blank first."""
        return [BLANK, *(self._model.id_to_piece(i) for i in range(self._model.vocab_size()))]

    def encode(self, text: str) -> list[int]:
        """Output indices of `text` (no blank)."""
        return [i + 1 for i in self._model.encode(text)]

    def unknown(self, text: str) -> int:
        """Number of pieces of `text` that the vocabulary lacks."""
        return sum(i == self._model.unk_id() for i in self._model.encode(text))


def train(texts: Iterable[str], config: TokenizerConfig, model_path: str | Path) -> None:
    """Train a SentencePiece model on an iterable of transcripts, which is read once.

    Raises:
        DataError: the texts are too few for the vocabulary.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=config.vocab_size,
            model_type=config.model_type,
            character_coverage=config.character_coverage,
            bos_id=-1,
            eos_id=-1,
            unk_id=0,
            input_sentence_size=2_000_000,  # bounds the memory at any corpus size
            shuffle_input_sentence=True,
            num_threads=1,  # the result depends on the number of threads
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = f"the training transcripts do not allow it ({error}); choose a smaller one"
        raise DataError(f"tokenizer.vocab_size={config.vocab_size}: {reason}") from error
    with atomic(model_path) as temporary:
        temporary.write_bytes(model.getvalue())


def write_pieces(path: str | Path, pieces: list[str]) -> None:
    """Write one piece a line, in the order of the network's outputs."""
    with atomic(path) as temporary:
        temporary.write_bytes("".join(f"{piece}\n" for piece in pieces).encode())


def read_pieces(path: str | Path) -> list[str]:
    """Read what `write_pieces` wrote.

    Raises:
        ArtifactError: the file is absent, or its first line is not the blank.
    """
    try:
        # Not splitlines: a piece may hold one of the other characters that Unicode counts as the end of a line.
        pieces = Path(path).read_bytes().decode().removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run the tokenizer step") from None
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); run the tokenizer step again") from None
    if not pieces or pieces[0] != BLANK:
        raise ArtifactError(f"{path}: the first line must be {BLANK}; run the tokenizer step again")
    return pieces
