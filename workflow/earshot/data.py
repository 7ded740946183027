"""Batches for training: cuts of like duration together, by seconds of audio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from lhotse import CutSet
from lhotse.dataset import DynamicBucketingSampler
from torch.nn.utils.rnn import pad_sequence

from earshot import feature_store
from earshot.corpus.manifest import load_cuts
from earshot.features import FrontEnd
from earshot.tokenizer import Tokenizer


@dataclass
class Batch:
    """Padded utterances: features [B, T, n_mels], padded with the front end's silence, their valid frames [B], and their targets."""

    features_btf: torch.Tensor
    lengths_b: torch.Tensor
    targets: torch.Tensor  # of all utterances, one after the other
    target_lengths_b: torch.Tensor
    texts: list[str]
    ids: list[str]
    audio_s: float


class Utterances(torch.utils.data.Dataset):
    """Maps the CutSet of a batch, as lhotse's samplers give it, to a `Batch`."""

    def __init__(self, front_end: FrontEnd, tokenizer: Tokenizer) -> None:
        self.front_end, self.tokenizer = front_end, tokenizer

    def __getitem__(self, cuts: CutSet) -> Batch:
        features = [self.front_end.normalise(feature_store.load(cut)) for cut in cuts]
        lengths = torch.tensor([len(item) for item in features])
        padded = pad_sequence(features, batch_first=True)
        padding = torch.arange(padded.shape[1]) >= lengths[:, None]
        padded[padding] = self.front_end.silence()
        texts = [cut.supervisions[0].text for cut in cuts]
        targets = [self.tokenizer.encode(text) for text in texts]
        return Batch(
            padded,
            lengths,
            torch.tensor([index for target in targets for index in target]),
            torch.tensor([len(target) for target in targets]),
            texts,
            [cut.id for cut in cuts],
            sum(cut.duration for cut in cuts),
        )


def batches(
    manifest: Path, dataset: Utterances, batch_s: float, buckets: int, workers: int, shuffle: bool, seed: int = 0, epoch: int = 0
) -> torch.utils.data.DataLoader:
    """One pass over a manifest with features; under DDP each process gets its share. The manifest is read as it is needed."""
    sampler = DynamicBucketingSampler(
        load_cuts(manifest), max_duration=batch_s, num_buckets=buckets, shuffle=shuffle, drop_last=False, seed=seed, sync_buckets=True
    )
    sampler.set_epoch(epoch)
    return torch.utils.data.DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=workers)
