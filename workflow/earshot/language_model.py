"""N-gram language models: those that can be fetched by name, and the words of an ARPA file."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from earshot.errors import ArtifactError

# Those that the workflow downloads, by name: path on openslr's server or a mirror of it, checksum.
# LibriSpeech's 3-gram, pruned at 1e-7: https://www.openslr.org/11
KNOWN = {
    "librispeech_3gram": (
        "11/3-gram.pruned.1e-7.arpa.gz",
        "sha256:71dd880667cb6ea3942bb1982988c91fb1208839a21911eeec7e31c857c4bdfb",
    )
}
NOT_WORDS = {"<s>", "</s>", "<unk>", "<UNK>"}


def check(path: str) -> None:
    """
    Raises:
        ArtifactError: there is no such file.
    """
    if Path(path).is_file():
        return
    if path in KNOWN:
        remedy = f"the workflow downloads it; by itself: python -m earshot.stages.language_model name={path} out=FILE, then decode.lm=FILE"
    else:
        remedy = f"give an ARPA file or a KenLM binary, or decode.lm={next(iter(KNOWN))}"
    raise ArtifactError(f"decode.lm={path}: no such file; {remedy}")


def words(path: str) -> Iterator[str]:
    """The words of an ARPA file, which may be compressed (.gz), in its order.

    Raises:
        ArtifactError: the file is absent, damaged or no ARPA.
    """
    check(path)
    found = False
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("\\") and found:
                    return
                found = found or line.strip() == "\\1-grams:"
                entry = line.split()
                if found and len(entry) > 1 and entry[1] not in NOT_WORDS:
                    yield entry[1]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read as an ARPA file ({error}); {_REMEDY}") from error
    raise ArtifactError(f"{path}: {'cut off within its words' if found else 'no ARPA file'}; {_REMEDY}")


_REMEDY = "give one, complete; the words of a KenLM binary cannot be listed: give it with decode.lexicon=FILE"
