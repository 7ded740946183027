"""A bigram language model by counting, for tests and benchmarks: what KenLM's lmplz makes of a corpus, at its simplest."""

from __future__ import annotations

import gzip
import math
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

DISCOUNT = 0.5


def write_arpa(path: Path, sentences: Iterable[str]) -> Path:
    """Write the ARPA file (compressed where it ends in .gz) of a bigram with absolute discounting, interpolated with the unigram."""
    words = [["<s>", *sentence.split(), "</s>"] for sentence in sentences]
    follows = Counter(pair for sentence in words for pair in pairwise(sentence))
    before, kinds = Counter(one for one, _ in follows.elements()), Counter(one for one, _ in follows)
    single = Counter(word for sentence in words for word in sentence[1:]) + Counter(["<unk>"])
    total = sum(single.values())
    left = {one: DISCOUNT * kinds[one] / count for one, count in before.items()}  # what is left for the words that never followed
    lines = ["\\data\\", f"ngram 1={len(single) + 1}", f"ngram 2={len(follows)}", ""]
    lines += ["\\1-grams:", f"-99\t<s>\t{math.log10(left['<s>']):.4f}"]
    lines += [f"{math.log10(count / total):.4f}\t{word}\t{math.log10(left.get(word, 1)):.4f}" for word, count in single.items()]
    lines += ["", "\\2-grams:"]
    for (one, other), count in follows.items():
        lines.append(f"{math.log10((count - DISCOUNT) / before[one] + left[one] * single[other] / total):.4f}\t{one} {other}")
    content = "\n".join([*lines, "", "\\end\\", ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
