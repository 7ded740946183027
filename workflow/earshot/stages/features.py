"""Log-mel features of the training and development splits, the statistics to normalise them by, and the front end's constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from earshot import feature_store
from earshot.config import FeaturesStage
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.features import FrontEnd
from earshot.files import atomic, write_json
from earshot.stages import stage

SMALLEST_STD = 1e-3  # a bin that never changes (above the audio's band) is not blown up by its normalisation
GOLDEN_S = 4  # seconds of audio in the golden vector


@stage("features")
def main(cfg: FeaturesStage) -> None:
    corpus_dir, out = Path(cfg.corpus_dir), Path(cfg.out)
    sums = list(feature_store.compute("train", corpus_dir, cfg.features, out))
    total, squares = sum((s.total for s in sums), np.zeros(())), sum((s.squares for s in sums), np.zeros(()))
    frames = sum(s.frames for s in sums)
    for _ in feature_store.compute("dev", corpus_dir, cfg.features, out):
        pass
    mean = total / frames
    std = np.maximum(np.sqrt(np.maximum(squares / frames - mean**2, 0)), SMALLEST_STD)
    write_json(out / "stats.json", {"split": "train", "frames": frames, "mean": mean.tolist(), "std": std.tolist()})
    front_end = FrontEnd(cfg.features, mean.tolist(), std.tolist())
    front_end.save(out / "front_end.json")
    write_golden(front_end, corpus_dir, out / "golden.npz")


def write_golden(front_end: FrontEnd, corpus_dir: Path, path: Path) -> None:
    """The start of the first dev utterance as 16-bit samples, and its features: for a port of the front end to check itself against."""
    first = next(iter(load_cuts(corpus_dir / "dev.cuts.jsonl.gz")))
    audio = read_audio(first.recording.sources[0].source)[: GOLDEN_S * first.recording.sampling_rate]
    samples = np.round(audio * 32768).clip(-32768, 32767).astype(np.int16)
    with atomic(path) as temporary:
        np.savez(temporary, audio=samples, features=front_end(samples.astype(np.float32) / 32768).numpy())


if __name__ == "__main__":
    main()
