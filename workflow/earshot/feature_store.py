"""Features of whole splits: computed in parallel, stored in lhotse's shards, resumable shard by shard.

A shard is one archive of compressed features and one manifest of its cuts; of features that are not stored, the manifest alone. A
finished shard has its manifest, so an interrupted run goes on with the first one that lacks it. Beside each cut stands the checksum of
what is stored of it, which is looked at whenever it is read, and of all shards when the step runs again. Memory is bounded by the
shards in work, not by the corpus.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import json
import logging
import random
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import MonoCut
from lhotse.features.base import Features as FeaturesManifest
from lhotse.features.io import LilcomChunkyWriter

from earshot import parallel
from earshot.config import SAMPLE_RATE_HZ, Features
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.errors import ArtifactError, DataError
from earshot.features import LogMel
from earshot.files import gzip_writer, sha256, writing

# Training shuffles within a buffer of lhotse's sampler, of 20,000 utterances. A longer manifest has its shards in random order, so that the
# buffer never holds one part of the corpus alone.
BUFFERED_SHARDS = 20
CHECKSUM = "stored_crc32"  # with each cut, of the bytes that are stored of its features

logger = logging.getLogger(__name__)


@dataclass
class Sums:
    """Over frames, per mel bin: the features, their squares, and how many frames there are."""

    total: np.ndarray
    squares: np.ndarray
    frames: int


def compute(split: str, corpus_dir: Path, config: Features, out: Path) -> Iterator[Sums]:
    """Store the features of a split in `out`; yields what each shard adds to the statistics."""
    manifest = corpus_dir / f"{split}.cuts.jsonl.gz"
    # Of other audio or settings no shard may be taken over, so both are in the name of the folder.
    key = json.dumps([asdict(config), sha256(manifest)], sort_keys=True).encode()
    folder = out / "shards" / f"{split}-{hashlib.sha256(key).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(manifest, config, folder)
    count = 0
    for sums in parallel.ordered(store, shards, jobs=config.jobs, total=None, unit="shard", what=f"features of {split}"):
        count += 1
        yield sums
    if not count:
        raise DataError(f"{manifest}: the split {split} is empty; choose other subsets or a larger corpus")
    order = list(range(count))
    if count > BUFFERED_SHARDS:
        random.Random(0).shuffle(order)
    with gzip_writer(out / f"{split}.cuts.jsonl.gz") as sink:
        for index in order:
            with gzip.open(folder / f"{index:06d}.jsonl.gz", "rb") as source:
                shutil.copyfileobj(source, sink)
    for other in out.glob(f"shards/{split}-*"):
        if other != folder:
            shutil.rmtree(other)


@dataclass
class Shard:
    """Some cuts, and where their features go: `path`.lca holds them, `path`.jsonl.gz the cuts, `path`.npz the sums."""

    cuts: list[MonoCut]
    config: Features
    path: Path


def _shards(manifest: Path, config: Features, folder: Path) -> Iterator[Shard]:
    cuts = iter(load_cuts(manifest))
    for index in itertools.count():
        some = list(itertools.islice(cuts, config.shard_utterances))
        if not some:
            return
        yield Shard(some, config, folder / f"{index:06d}")


def store(shard: Shard) -> Sums:
    """Compute a shard and store its features, unless an interrupted run has done so or only their sums are wanted."""
    sums = shard.path.with_suffix(".npz")
    if not _finished(shard):
        found = _compute(shard)
        with writing(sums):
            np.savez(sums, **asdict(found))
        with gzip_writer(shard.path.with_suffix(".jsonl.gz")) as manifest:
            for cut in shard.cuts:
                manifest.write(json.dumps(cut.to_dict(), ensure_ascii=False).encode() + b"\n")
    with np.load(sums) as content:
        return Sums(content["total"], content["squares"], int(content["frames"]))


def _finished(shard: Shard) -> bool:
    """Whether a shard is stored, and whole: one that is damaged is told, and computed again."""
    manifest = shard.path.with_suffix(".jsonl.gz")
    if not manifest.exists():
        return False
    try:
        with np.load(shard.path.with_suffix(".npz")) as content:
            dict(content)  # NumPy looks at the checksums of what it reads
        for cut in load_cuts(manifest):
            if cut.has_features:
                _check(cut)
        return True
    except (ArtifactError, DataError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("%s: a shard of an earlier run is damaged (%s); it is computed again", shard.path, error)
        return False


def _compute(shard: Shard) -> Sums:
    """Write the archive of a shard, and say in its cuts what is where."""
    log_mel, archive = LogMel(shard.config), shard.path.with_suffix(".lca")
    sums = Sums(np.zeros(shard.config.n_mels), np.zeros(shard.config.n_mels), 0)
    writing_features = LilcomChunkyWriter(archive, mode="wb") if shard.config.stored else contextlib.nullcontext()
    with writing(archive), writing_features as writer:
        for cut in shard.cuts:
            features = log_mel(read_audio(cut.recording.sources[0].source)).numpy()
            sums.total += features.sum(axis=0, dtype=np.float64)
            sums.squares += np.square(features, dtype=np.float64).sum(axis=0)
            sums.frames += len(features)
            if writer is not None:
                cut.features = _described(cut, features, writer, shard.config)
    for cut in shard.cuts if shard.config.stored else ():
        cut.custom = {CHECKSUM: zlib.crc32(_stored(cut.features))}
    return sums


def _described(cut: MonoCut, features: np.ndarray, writer: LilcomChunkyWriter, config: Features) -> FeaturesManifest:
    """Write the features of a cut; lhotse's description of where they are."""
    shift = config.hop_length / SAMPLE_RATE_HZ
    return FeaturesManifest(
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


def _stored(features: FeaturesManifest) -> bytes:
    """What the archive holds of the features of a cut. lhotse's key is where it begins, and the lengths of its parts."""
    begin, *lengths = map(int, features.storage_key.split(","))
    with open(features.storage_path, "rb") as archive:
        archive.seek(begin)
        return archive.read(sum(lengths))


def _check(cut: MonoCut) -> None:
    """
    Raises:
        DataError: what is stored of the features of a cut is absent, or not what was written.
    """
    path, remedy = cut.features.storage_path, "run the features step again, which computes what is damaged"
    try:
        found = zlib.crc32(_stored(cut.features))
    except OSError as error:
        raise DataError(f"{path}: the features of {cut.id} cannot be read ({error.strerror}); {remedy}") from error
    if found != (cut.custom or {}).get(CHECKSUM, found):
        raise DataError(f"{path}: damaged, the features of {cut.id} have another checksum than those that were stored; {remedy}")


def load(cut: MonoCut) -> torch.Tensor:
    """Stored log-mel features [frames, n_mels] of a cut, not normalised.

    Raises:
        DataError: they are damaged or absent.
    """
    _check(cut)
    return torch.from_numpy(cut.features.load())
