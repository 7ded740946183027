"""Checkpoints that others trained, as this package's Conformer: the same function of the features, in other names and another order.

`convert` knows two implementations, and tells them by the names of their tensors. What tensors do not say, the caller has to
(`config.Imported`); a variant that cannot be expressed exactly is refused by its name.
"""

from __future__ import annotations

from pathlib import Path

import torch

from earshot.config import Imported, Model
from earshot.errors import ArtifactError
from earshot.model.conformer import Conformer
from earshot.model.foreign import sooftware, torchaudio_conformer
from earshot.model.foreign.transfer import Transfer

IMPLEMENTATIONS = (sooftware, torchaudio_conformer)
SHOWN = 3  # names of tensors in a message


def convert(tensors: dict[str, torch.Tensor], source: Path, options: Imported, n_mels: int) -> tuple[str, Model, Conformer]:
    """The implementation's name, the configuration of the Conformer, and itself in evaluation mode, its outputs in the checkpoint's order.

    Raises:
        ArtifactError: of no known implementation, or with a tensor missing, unknown or misshapen, or of a variant that is not known.
        ConfigError: an option is needed that is not given, or does not fit the tensors.
    """
    for implementation in IMPLEMENTATIONS:
        own = next(filter(None, map(implementation.OWN_NAME.match, tensors)), None)
        if own:
            transfer = Transfer(tensors, source, prefix=own[1])
            config = implementation.convert(transfer, options, n_mels)
            transfer.finish()
            model = Conformer(config, n_mels, transfer.weights["output.weight"].shape[0]).eval()
            model.load_state_dict(transfer.weights)
            return implementation.NAME, config, model
    names, known = ", ".join(sorted(tensors)[:SHOWN]), " and ".join(implementation.NAME for implementation in IMPLEMENTATIONS)
    raise ArtifactError(f"{source}: {len(tensors)} tensors of no implementation that is known ({names} ...); known are {known}")
