"""A SentencePiece tokenizer of the training transcripts, its pieces in the order of the network's outputs, and its coverage report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from earshot.config import TokenizerStage
from earshot.corpus.manifest import load_cuts
from earshot.errors import DataError
from earshot.files import write_json
from earshot.stages import stage
from earshot.tokenizer import Tokenizer, train, write_pieces


def transcripts(corpus_dir: Path, split: str) -> Iterator[str]:
    """The texts of a split, one at a time."""
    for cut in load_cuts(corpus_dir / f"{split}.cuts.jsonl.gz"):
        yield cut.supervisions[0].text


def coverage(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float]:
    """How a vocabulary fits transcripts: pieces per word, and the pieces that it lacks."""
    words = pieces = unknown = 0
    for text in texts:
        words += len(text.split())
        pieces += len(tokenizer.encode(text))
        unknown += tokenizer.unknown(text)
    return {"words": words, "pieces": pieces, "pieces_per_word": round(pieces / max(words, 1), 3), "unknown_pieces": unknown}


@stage("tokenizer")
def main(cfg: TokenizerStage) -> None:
    corpus_dir, out = Path(cfg.corpus_dir), Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    if next(transcripts(corpus_dir, "train"), None) is None:
        raise DataError(f"{corpus_dir / 'train.cuts.jsonl.gz'}: no training transcript; choose other subsets or a larger corpus")
    train(transcripts(corpus_dir, "train"), cfg.tokenizer, out / "tokenizer.model")
    tokenizer = Tokenizer(out / "tokenizer.model")
    write_pieces(out / "tokenizer.pieces", tokenizer.pieces)
    report = {split: coverage(tokenizer, transcripts(corpus_dir, split)) for split in ("train", "dev", "test")}
    write_json(out / "tokenizer.json", {"vocab_size": cfg.tokenizer.vocab_size, "outputs": len(tokenizer.pieces), "coverage": report})


if __name__ == "__main__":
    main()
