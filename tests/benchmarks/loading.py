"""What training reads, per core: stored features, or audio whose features are computed on the fly, as it is or perturbed.

Batches come as training gets them, in one process with one thread. CPU seconds are counted, so that other work on the machine does not
matter; what a disk that is slower than the page cache would add is not in them, but `mib_per_hour` is. On a GPU the features of the audio
are computed there: what is left for a core then is `audio`.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import spoken
import torch
from lhotse import CutSet

from earshot import feature_store
from earshot.config import SAMPLE_RATE_HZ, Features, Train
from earshot.corpus.manifest import load_cuts
from earshot.data import Utterances, batches
from earshot.features import FrontEnd
from earshot.train import perturb

BATCH_S = 60.0


class Spelled:
    """Stands for a tokenizer, whose time is the same for all."""

    def encode(self, text: str) -> list[int]:
        return [1] * len(text.split())


def cpu_s(cuts: CutSet, dataset: Utterances, repeats: int) -> float:
    """The least CPU time of a pass."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        for _ in batches(cuts, dataset, BATCH_S, 2, 0, True):
            pass
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    args = spoken.arguments(__doc__, utterances=300)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        audio = spoken.cuts(args, folder, minutes=14)
        audio_s = sum(cut.duration for cut in audio)
        feature_store.store(feature_store.Shard([cut.drop_features() for cut in audio], Features(), folder / "000000"))
        CutSet.from_cuts([cut.drop_features() for cut in audio]).to_file(folder / "live.jsonl.gz")
        stored, live = load_cuts(folder / "000000.jsonl.gz"), load_cuts(folder / "live.jsonl.gz")
        for name in ("noise", "room"):
            samples = np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ * (10 if name == "noise" else 1))
            decay = 1.0 if name == "noise" else np.exp(-10 * np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ)
            soundfile.write(folder / f"{name}.wav", 0.1 * samples * decay, SAMPLE_RATE_HZ)
        heard = perturb.Perturbation(Train(noise_p=1.0, rooms_p=1.0), [folder / "noise.wav"], [folder / "room.wav"])
        front_end, repeats = FrontEnd(Features(), [0.0] * 80, [1.0] * 80), 1 if args.quick else 3
        plain = Utterances(front_end, Spelled())
        ways = {
            "stored_features": (stored, plain),
            "audio": (live, Utterances(front_end, Spelled(), on_device=True)),
            "features_on_the_fly": (live, plain),
            "with_speed": (perturb.at_speeds(live, [0.9, 1.1], 0, 0), plain),
            "with_room_and_noise": (live, Utterances(front_end, Spelled(), heard)),
        }
        rates = {name: round(audio_s / cpu_s(cuts, dataset, repeats), 1) for name, (cuts, dataset) in ways.items()}
        mib = {
            "stored_features": (folder / "000000.lca").stat().st_size,
            "audio": sum(Path(cut.recording.sources[0].source).stat().st_size for cut in audio),
        }
    result = {"utterances": len(audio), "audio_s": round(audio_s, 1), "audio_s_per_cpu_s": rates}
    print(json.dumps({**result, "mib_per_hour": {name: round(size / 2**20 / (audio_s / 3600), 1) for name, size in mib.items()}}))


if __name__ == "__main__":
    main()
