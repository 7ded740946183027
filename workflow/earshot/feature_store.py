"""Features of whole splits: computed in parallel, stored in lhotse's shards, resumable shard by shard.

A shard is one archive of compressed features and one manifest of its cuts. A finished shard has its manifest, so an interrupted run goes on
with the first one that lacks it. Memory is bounded by the shards in work, not by the corpus.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import MonoCut
from lhotse.features.base import Features as FeaturesManifest
from lhotse.features.io import LilcomChunkyWriter
from tqdm import tqdm

from earshot.config import SAMPLE_RATE_HZ, Features
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.errors import DataError
from earshot.features import LogMel
from earshot.files import atomic, sha256


def compute(split: str, corpus_dir: Path, config: Features, out: Path) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Store the features of a split in `out`; yields each shard's sum and sum of squares per bin and its frames."""
    manifest = corpus_dir / f"{split}.cuts.jsonl.gz"
    # Of other audio or settings no shard may be taken over, so both are in the name of the folder.
    key = json.dumps([asdict(config), sha256(manifest)], sort_keys=True).encode()
    folder = out / "shards" / f"{split}-{hashlib.sha256(key).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    shards = 0
    bar = tqdm(desc=f"features of {split}", unit="utt", disable=None)
    with ProcessPoolExecutor(config.jobs, mp_context=multiprocessing.get_context("forkserver"), initializer=_one_thread) as pool:
        pending: set[Future] = set()
        cuts = iter(load_cuts(manifest))
        while True:
            batch = list(itertools.islice(cuts, config.shard_utterances))
            if batch:
                pending.add(pool.submit(_shard, batch, config, folder / f"{shards:06d}"))
                shards += 1
            while pending and (not batch or len(pending) >= 2 * config.jobs):
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    total, squares, frames, utterances = future.result()
                    bar.update(utterances)
                    yield total, squares, frames
            if not batch:
                break
    bar.close()
    if not shards:
        raise DataError(f"{manifest}: the split {split} is empty; choose other subsets or a larger corpus")
    with atomic(out / f"{split}.cuts.jsonl.gz") as temporary, gzip.open(temporary, "wb", compresslevel=3) as sink:
        for index in range(shards):
            with gzip.open(folder / f"{index:06d}.jsonl.gz", "rb") as source:
                shutil.copyfileobj(source, sink)
    for other in out.glob(f"shards/{split}-*"):
        if other != folder:
            shutil.rmtree(other)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _shard(cuts: list[MonoCut], config: Features, path: Path) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Features of one shard: `path`.lca holds them and `path`.jsonl.gz the cuts; the sums are kept beside for a resumed run."""
    manifest, sums = path.with_suffix(".jsonl.gz"), path.with_suffix(".npz")
    if not manifest.exists():
        log_mel = LogMel(config)
        total, squares, frames = np.zeros(config.n_mels), np.zeros(config.n_mels), 0
        stored = []
        with LilcomChunkyWriter(path.with_suffix(".lca"), mode="wb") as writer:
            for cut in cuts:
                features = log_mel(read_audio(cut.recording.sources[0].source)).numpy()
                total += features.sum(axis=0, dtype=np.float64)
                squares += np.square(features, dtype=np.float64).sum(axis=0)
                frames += len(features)
                stored.append(_with_features(cut, features, writer, config))
        np.savez(sums, total=total, squares=squares, frames=frames)
        with atomic(manifest) as temporary:
            CutSet.from_cuts(stored).to_file(temporary)
    with np.load(sums) as content:
        return content["total"], content["squares"], int(content["frames"]), len(cuts)


def _with_features(cut: MonoCut, features: np.ndarray, writer: LilcomChunkyWriter, config: Features) -> MonoCut:
    shift = config.hop_length / SAMPLE_RATE_HZ
    manifest = FeaturesManifest(
        type="log-mel",
        num_frames=len(features),
        num_features=config.n_mels,
        frame_shift=shift,
        sampling_rate=SAMPLE_RATE_HZ,
        start=cut.start,
        duration=cut.duration,
        storage_type=writer.name,
        storage_path=str(writer.storage_path),
        storage_key=writer.write(cut.id, features),
        recording_id=cut.recording.id,
        channels=0,
    )
    cut.features = manifest
    return cut


def load(cut: MonoCut) -> torch.Tensor:
    """Stored log-mel features [frames, n_mels] of a cut, not normalised."""
    return torch.from_numpy(cut.features.load())
