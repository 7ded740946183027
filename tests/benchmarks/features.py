"""Features per core, disk included: ours against lhotse's own Fbank, on the same files in the same run.

Both read FLAC files, compute 80 bins and store them in lhotse's compressed shards, one process, one thread.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import spoken
import torch
from lhotse import CutSet, Fbank, FbankConfig
from lhotse.features.io import LilcomChunkyWriter

from earshot import feature_store
from earshot.config import Features


def ours(cuts: list, folder: Path) -> None:
    feature_store.store(feature_store.Shard(cuts, Features(), folder / "000000"))


def lhotse_fbank(cuts: list, folder: Path) -> None:
    extractor = Fbank(FbankConfig(num_mel_bins=80))
    CutSet.from_cuts(cuts).compute_and_store_features(extractor, storage_path=folder / "peer", num_jobs=1, storage_type=LilcomChunkyWriter)


def seconds(function, cuts: list, repeats: int) -> float:
    """The fastest of several runs, each into an empty folder."""
    times = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            function([cut.drop_features() for cut in cuts], Path(folder))
            times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    args = spoken.arguments(__doc__, utterances=400)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        cuts = spoken.cuts(args, Path(temporary), minutes=18)
        audio_s = sum(cut.duration for cut in cuts)
        repeats = 1 if args.quick else 3
        own, peer = audio_s / seconds(ours, cuts, repeats), audio_s / seconds(lhotse_fbank, cuts, repeats)
    print(
        json.dumps(
            {
                "utterances": len(cuts),
                "audio_s": round(audio_s, 1),
                "x_realtime_per_core": round(own, 1),
                "peer_x_realtime_per_core": round(peer, 1),
                "ratio": round(own / peer, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
