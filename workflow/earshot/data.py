"""Batches for training: cuts of like duration together, by seconds of audio."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import MonoCut
from lhotse.dataset import DynamicBucketingSampler, DynamicCutSampler
from torch.nn.utils.rnn import pad_sequence

from earshot import feature_store
from earshot.config import SAMPLE_RATE_HZ
from earshot.corpus.manifest import load_cuts
from earshot.errors import DataError
from earshot.features import FrontEnd
from earshot.tokenizer import Tokenizer


@dataclass
class Words:
    """What is said in the utterances of a batch."""

    targets: torch.Tensor  # of all utterances, one after the other
    target_lengths_b: torch.Tensor
    texts: list[str]
    ids: list[str]
    audio_s: float  # of all utterances together, padding not counted


@dataclass
class Batch(Words):
    """Padded utterances: features [B, T, n_mels], padded with the front end's silence, and their valid frames [B]."""

    features_btf: torch.Tensor
    lengths_b: torch.Tensor

    def parts(self, count: int) -> list[Batch]:
        """The same utterances in `count` batches of about as many each, none padded further than its longest one."""
        if count == 1:
            return [self]
        targets = self.targets.split(self.target_lengths_b.tolist())
        made = []
        for places in torch.arange(len(self.ids)).tensor_split(count):
            lengths_b, chosen = self.lengths_b[places], places.tolist()
            made.append(
                Batch(
                    torch.cat([targets[i] for i in chosen]),
                    self.target_lengths_b[places],
                    [self.texts[i] for i in chosen],
                    [self.ids[i] for i in chosen],
                    self.audio_s * len(chosen) / len(self.ids),
                    self.features_btf[places, : int(lengths_b.max())],
                    lengths_b,
                )
            )
        return made


@dataclass
class AudioBatch(Words):
    """Utterances whose features are computed where the batch is trained: samples [B, n], padded with zeros, and how many are valid [B]."""

    audio_bn: torch.Tensor
    samples_b: torch.Tensor

    def batch(self, front_end: FrontEnd) -> Batch:
        """With the features; `front_end` is where the samples are."""
        lengths_b = (self.samples_b - front_end.config.n_fft).div(front_end.hop_length, rounding_mode="floor").add(1).clamp_min(0)
        features_btf = front_end.normalise(front_end.log_mel(self.audio_bn))
        silence_beyond(features_btf, lengths_b, front_end)
        return Batch(self.targets, self.target_lengths_b, self.texts, self.ids, self.audio_s, features_btf, lengths_b)


def silence_beyond(features_btf: torch.Tensor, lengths_b: torch.Tensor, front_end: FrontEnd) -> None:
    """Fill the padding, in place, with the features of silence."""
    padding_bt = torch.arange(features_btf.shape[1], device=lengths_b.device) >= lengths_b[:, None]
    features_btf[padding_bt] = front_end.silence()


@dataclass
class Utterances(torch.utils.data.Dataset):
    """Maps the CutSet of a batch, as lhotse's samplers give it, to a `Batch`: of its stored features, else of its audio.

    `perturb` changes the samples [n] of an utterance, of which it gets the id. With `on_device` a batch of audio stays one.
    """

    front_end: FrontEnd
    tokenizer: Tokenizer
    perturb: Callable[[np.ndarray, str], np.ndarray] | None = None
    on_device: bool = False

    def __getitem__(self, cuts: CutSet) -> Batch | AudioBatch:
        texts = [cut.supervisions[0].text for cut in cuts]
        targets = [self.tokenizer.encode(text) for text in texts]
        words = (
            torch.tensor([index for target in targets for index in target]),
            torch.tensor([len(target) for target in targets]),
            texts,
            [cut.id for cut in cuts],
            sum(cut.duration for cut in cuts),
        )
        if not all(cut.has_features for cut in cuts):
            audio = [torch.from_numpy(self._audio(cut)) for cut in cuts]
            heard = AudioBatch(*words, pad_sequence(audio, batch_first=True), torch.tensor([len(item) for item in audio]))
            return heard if self.on_device else heard.batch(self.front_end)
        features = [self.front_end.normalise(feature_store.load(cut)) for cut in cuts]
        lengths_b = torch.tensor([len(item) for item in features])
        features_btf = pad_sequence(features, batch_first=True)
        silence_beyond(features_btf, lengths_b, self.front_end)
        return Batch(*words, features_btf, lengths_b)

    def _audio(self, cut: MonoCut) -> np.ndarray:
        try:
            (samples,) = cut.load_audio()
        except Exception as error:  # whatever lhotse and its decoders raise
            path = cut.recording.sources[0].source
            raise DataError(f"{path}: the audio of {cut.id} cannot be read ({error}); copy or download it again") from error
        return self.perturb(samples, cut.id) if self.perturb else samples


@dataclass
class Rest:
    """What a sampler gives after its first `done` batches: those that an interrupted epoch has not seen."""

    sampler: DynamicBucketingSampler | DynamicCutSampler
    done: int

    def __iter__(self) -> Iterator[CutSet]:
        return itertools.islice(iter(self.sampler), self.done, None)


def batches(
    cuts: CutSet | Path,
    dataset: Utterances,
    batch_s: float,
    buckets: int,
    workers: int,
    shuffle: bool,
    seed: int = 0,
    epoch: int = 0,
    done: int = 0,
    alone: bool = False,
    short_first: bool = False,
) -> torch.utils.data.DataLoader:
    """One pass over cuts, or over those of a manifest, without the first `done` batches.

    Under DDP each process gets its share, unless it is `alone` in this. The order follows from `seed` and `epoch`, or with `short_first`
    from the durations. The manifest is read as it is needed, but for that.
    """
    cuts = load_cuts(cuts) if isinstance(cuts, Path) else cuts
    settings = {"max_duration": batch_s, "drop_last": False, "seed": seed} | ({"world_size": 1, "rank": 0} if alone else {})
    sampler = (
        DynamicCutSampler(cuts.to_eager().sort_by_duration(ascending=True), **settings)
        if short_first
        else DynamicBucketingSampler(cuts, num_buckets=buckets, shuffle=shuffle, sync_buckets=True, **settings)
    )
    sampler.set_epoch(epoch)
    return torch.utils.data.DataLoader(dataset, sampler=Rest(sampler, done), batch_size=None, num_workers=workers)


def padded_s(batch: Batch, front_end: FrontEnd) -> float:
    """Seconds of audio that the network is given, padding counted."""
    return math.prod(batch.features_btf.shape[:2]) * front_end.hop_length / SAMPLE_RATE_HZ
