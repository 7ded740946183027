"""A look at all utterances before a training: how long they are, which of them cannot be learned from, whether they fit the front end."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from lhotse.cut import MonoCut

from earshot import feature_store
from earshot.config import Train
from earshot.corpus.manifest import load_cuts, read_audio
from earshot.errors import ArtifactError, ConfigError, DataError
from earshot.features import FrontEnd
from earshot.model import Conformer
from earshot.tokenizer import Tokenizer

LARGEST_DIFFERENCE = 0.1  # mean, in natural logarithms; the store's compression makes 0.01
NAMED = 5  # utterances that a message names


@dataclass
class Speech:
    """The utterances of a training."""

    manifests: dict[str, Path]  # train and dev, with features or without
    train_s: float = 0.0  # seconds in an epoch, at the mean of the speeds
    longest_s: float = 0.0  # the longest utterance, at the lowest speed
    # Utterances whose transcripts have more pieces than there are output frames to write them in, id: both counts. Those of train are left
    # out; those of dev count as words, not in the loss, which is infinite.
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    without_loss: dict[str, dict[str, int]] = field(default_factory=dict)

    def learns_from(self, cut: MonoCut) -> bool:
        """Whether the utterance is none of those left out."""
        return cut.id not in self.left_out


def survey(manifests: dict[str, Path], front_end: FrontEnd, tokenizer: Tokenizer, model: Conformer, config: Train) -> Speech:
    """Look at all utterances.

    Raises:
        ArtifactError: the stored features are not those of the front end.
        ConfigError: the audio is to be perturbed, but features are stored.
        DataError: an utterance is longer than a batch may be, or none is left to learn from, or to find a loss of.
    """
    found, count = Speech(manifests), 0
    for cut in load_cuts(manifests["train"]):
        if not count:
            _check_features(cut, front_end, manifests["train"], config)
        count += 1
        if too_long := _too_long(cut, front_end, tokenizer, model, max(config.speeds)):
            found.left_out[cut.id] = too_long
            continue
        found.train_s += cut.duration
        found.longest_s = max(found.longest_s, cut.duration / min(config.speeds))
    found.train_s *= sum(1 / speed for speed in config.speeds) / len(config.speeds)
    _tell(found.left_out, count, manifests["train"], "left out")
    dev_count = 0
    for cut in load_cuts(manifests["dev"]):
        if not dev_count:
            _check_features(cut, front_end, manifests["dev"], config)
        dev_count += 1
        if too_long := _too_long(cut, front_end, tokenizer, model, 1.0):
            found.without_loss[cut.id] = too_long
    _tell(found.without_loss, dev_count, manifests["dev"], "counted as words, not in the loss")
    if count - len(found.left_out) < config.buckets:
        raise DataError(f"train.buckets={config.buckets}: there are only {count - len(found.left_out)} utterances; lower it, or add speech")
    if found.longest_s > config.batch_s:
        remedy = "raise it, or lower corpus.max_duration_s"
        raise DataError(f"train.batch_s={config.batch_s}: the longest utterance has {found.longest_s:.1f} s; {remedy}")
    return found


def _too_long(cut: MonoCut, front_end: FrontEnd, tokenizer: Tokenizer, model: Conformer, speed: float) -> dict[str, int] | None:
    """The pieces that an utterance needs and the output frames that it has at this speed, if those are fewer."""
    targets = tokenizer.encode(cut.supervisions[0].text)
    needed = len(targets) + sum(a == b for a, b in itertools.pairwise(targets))  # a blank must stand between equal pieces
    frames = cut.num_frames if cut.has_features else front_end.frames(int(cut.num_samples / speed))
    outputs = int(model.output_lengths(frames))
    return {"pieces": needed, "output_frames": outputs} if needed > outputs else None


def _tell(too_long: dict[str, dict[str, int]], count: int, manifest: Path, what: str) -> None:
    """
    Raises:
        DataError: it is so of all of them.
    """
    if too_long and count == len(too_long):
        reason = "every transcript has more pieces than there are output frames to write them in"
        raise DataError(f"{manifest}: {reason}; lower the subsampling of the model, or raise tokenizer.vocab_size")
    if too_long:
        named = ", ".join(list(too_long)[:NAMED]) + (" ..." if len(too_long) > NAMED else "")
        split = manifest.name.partition(".")[0]
        print(f"{split}: {len(too_long)} of {count} utterances have more pieces than output frames and are {what}: {named}", flush=True)


def _check_features(cut: MonoCut, front_end: FrontEnd, manifest: Path, config: Train) -> None:
    """The first utterance of a split stands for all: its stored features are computed once more."""
    if not cut.has_features:
        return
    if config.perturbs_audio:
        remedy = "choose features=logmel80_live (features.stored=false), which computes them anew in each epoch"
        raise ConfigError(f"train.speeds, train.noise and train.rooms change the audio, and {manifest} has stored features; {remedy}")
    remedy = "run the features step again"
    if cut.num_features != front_end.n_mels:
        raise ArtifactError(f"{manifest}: features of another front end, {cut.num_features} bins, here {front_end.n_mels}; {remedy}")
    path = Path(cut.recording.sources[0].source)
    if not path.exists():  # stored features are all that a training needs
        return
    stored, computed = feature_store.load(cut), front_end.log_mel(read_audio(path))
    if stored.shape != computed.shape or (stored - computed).abs().mean() > LARGEST_DIFFERENCE:
        raise ArtifactError(f"{manifest}: features of another front end: those of {cut.id} are not what front_end.json gives; {remedy}")
