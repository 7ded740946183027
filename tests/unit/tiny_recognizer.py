"""A model directory of a tiny Conformer with random weights, and a corpus of short noises, for tests of what is built around a model."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from earshot.config import SAMPLE_RATE_HZ, Features, Model
from earshot.corpus.manifest import Item, write_cuts
from earshot.features import FrontEnd
from earshot.model import Conformer, checkpoint
from earshot.tokenizer import BLANK, write_pieces

PIECES = [BLANK, "<unk>", "▁TURN", "▁ON", "▁OFF", "▁THE", "▁LIGHT", "▁STOP", "S", "▁GO"]
CONFIG = Model(dim=16, layers=1, heads=2, feed_forward_factor=2, conv_kernel=3, subsampling_channels=[4, 4])


def write_model(folder: Path, seed: int = 1, **changes) -> Path:
    """A model directory; its outputs are all about as likely, so that it says many words with blanks between them.

    `changes` are to the configuration of the model.
    """
    model_config = replace(CONFIG, **changes)
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    front_end, pieces, config = folder.parent / "front_end.json", folder.parent / "tokenizer.pieces", {"model": asdict(model_config)}
    FrontEnd(Features(), [-2.0] * 80, [2.0] * 80).save(front_end)
    write_pieces(pieces, PIECES)
    model = Conformer(model_config, 80, len(PIECES)).eval()
    with torch.no_grad():
        model.subsampling.convs[-1].weight *= 4
        model.output.weight *= 5
        model.output.bias -= model(FrontEnd.load(front_end)(noise(3.0, 0))[None])[0].mean(dim=0)
    checkpoint.save(folder, model.state_dict(), config, front_end, pieces)
    return folder


def noise(seconds: float, seed: int, rate: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """Noise whose colour changes several times a second, so that a random network says more than one thing."""
    generator = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    pitch_hz = np.repeat(generator.uniform(100, 3000, round(seconds * 10) + 1), rate // 10)[: len(t)]
    tones = np.sin(2 * np.pi * np.cumsum(pitch_hz) / rate)
    return (0.2 * tones + 0.01 * generator.standard_normal(len(t))).astype(np.float32)


def write_corpus(folder: Path, seconds: list[float], texts: list[str], split: str = "test") -> Path:
    """A corpus directory with one split."""
    folder.mkdir(parents=True, exist_ok=True)
    with write_cuts(folder / f"{split}.cuts.jsonl.gz") as writer:
        for i, (duration, text) in enumerate(zip(seconds, texts, strict=True)):
            path = folder / f"{split}-{i}.flac"
            soundfile.write(path, noise(duration, i), SAMPLE_RATE_HZ)
            writer.write(Item(f"{split}-{i}", str(path), f"speaker{i % 2}", text, round(duration * SAMPLE_RATE_HZ), "0" * 32))
    return folder
