"""What a form of a network loses on a little speech: loss and noise of its logits on calibration speech, words on the dev split."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import ctc_loss

from earshot import metrics, windows
from earshot.decode import BLANK_ID, best_path
from earshot.decoders import Decoder
from earshot.errors import DataError
from earshot.features import FrontEnd

Network = Callable[[torch.Tensor], torch.Tensor]  # features [1, frames, n_mels] of a window to logits [1, T', V]


@dataclass(frozen=True)
class Measured:
    """Beside the float network: CTC loss in nats per piece of what the float network recognizes (its best path, so that no tokenizer is
    needed); power of the difference of the logits as a part of theirs; WER on the dev split, a fraction."""

    loss: float
    noise: float
    wer: float | None = None

    @property
    def sqnr_db(self) -> float | None:
        """None where there is no difference."""
        return -10 * math.log10(self.noise) if self.noise > 0 else None


@dataclass(frozen=True)
class Speech:
    """Features [T, n_mels] of an utterance, and its transcript."""

    id: str
    features: torch.Tensor
    text: str


class Probe:
    """Speech that networks of one window are compared on with the float one.

    Args:
        network: the float network.
        loss: speech for loss and noise.
        dev: speech for the WER.

    Raises:
        DataError: there is none, or the float network recognizes nothing in it.
    """

    def __init__(
        self,
        network: Network,
        layout: windows.Layout,
        front_end: FrontEnd,
        decoder: Decoder,
        loss: Sequence[Speech],
        dev: Sequence[Speech],
    ) -> None:
        self._layout, self._silence, self._decoder = layout, front_end.silence(), decoder
        self._dev = dev
        self._of_float = [(one, self._logits(network, one)) for one in loss]
        self._targets = [best_path(logits) for _, logits in self._of_float]
        if not any(self._targets):
            raise DataError(
                f"{len(loss)} utterances of calibration speech in which the float network recognizes nothing; take others, or train on"
            )
        if not sum(len(one.text.split()) for one in dev):
            raise DataError(f"{len(dev)} utterances of the dev split without a single word; take more, or check its transcripts")

    def _logits(self, network: Network, one: Speech) -> torch.Tensor:
        return windows.run(lambda x_tf: network(x_tf[None])[0], one.features, self._layout, self._silence)

    def measure(self, network: Network, with_wer: bool = True) -> Measured:
        """What `network` loses."""
        error = power = loss = 0.0
        count = 0
        for (one, wanted), target in zip(self._of_float, self._targets, strict=True):
            logits = self._logits(network, one)
            error += (logits - wanted).square().sum().item()
            power += wanted.square().sum().item()
            if target:
                loss += _loss(logits, target)
                count += len(target)
        return Measured(loss / count, error / power, self.wer(network) if with_wer else None)

    def wer(self, network: Network) -> float:
        """Word error rate on the dev split."""
        texts = [self._decoder(self._logits(network, one), 0.0)[0].text for one in self._dev]
        rows = [metrics.compare(one.id, 0.0, one.text, text) for one, text in zip(self._dev, texts, strict=True)]
        return metrics.accuracy(rows, samples=0, seed=0)["wer"]


def _loss(logits_tv: torch.Tensor, target: list[int]) -> float:
    """CTC loss in nats."""
    log_probabilities = logits_tv.log_softmax(-1).unsqueeze(1)
    lengths = torch.tensor([len(logits_tv)]), torch.tensor([len(target)])
    return ctc_loss(log_probabilities, torch.tensor([target]), *lengths, blank=BLANK_ID, reduction="sum").item()
