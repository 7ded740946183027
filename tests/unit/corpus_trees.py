"""Small trees in LibriSpeech's layout, with sound in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from earshot.config import LibriSpeech

TEXTS = ["THE CAT SAT ON THE MAT", "IT'S RAINING AGAIN", "GO HOME"]


def write_tree(root: Path, subsets: dict[str, list[int]], utterances: int = 3, seconds: float = 1.0) -> Path:
    """`subsets`: the speakers of each; each speaker has a chapter 7 of `utterances` utterances."""
    for subset, speakers in subsets.items():
        for speaker in speakers:
            folder = root / subset / str(speaker) / "7"
            folder.mkdir(parents=True)
            lines = []
            for number in range(utterances):
                rng = np.random.default_rng([speaker, number])
                name = f"{speaker}-7-{number:04d}"
                soundfile.write(folder / f"{name}.flac", 0.1 * rng.standard_normal(int(16000 * seconds)), 16000, subtype="PCM_16")
                lines.append(f"{name} {TEXTS[number % len(TEXTS)]}\n")
            (folder / f"{speaker}-7.trans.txt").write_text("".join(lines))
    return root


def config(root: Path, **values) -> LibriSpeech:
    """A configuration for a tree with the subsets train-clean-5, dev-clean-2 and test-clean."""
    subsets = {"train_subsets": ["train-clean-5"], "dev_subsets": ["dev-clean-2"], "test_subsets": ["test-clean"]}
    return LibriSpeech(**{"root": str(root), "download": False, "jobs": 1, **subsets, **values})


SPLITS = {"train-clean-5": [1, 2], "dev-clean-2": [3], "test-clean": [4]}
