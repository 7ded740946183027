"""Does the imported network compute what the original one does? What the original gave for some features says so."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch

from earshot.errors import ArtifactError
from earshot.model.conformer import Conformer

LARGEST_DIFFERENCE = 1e-3  # of log-probabilities; the original may have run on another processor
UNSEEN = "convolution_first, half_step_residual, score_scale, another activation or order of the outputs"


def compare(model: Conformer, path: Path) -> float:
    """The largest difference of log-probabilities between `model`, its outputs in the order of the checkpoint, and the original.

    The file is an .npz or .safetensors with `features` [T, n_mels] and `logits` [T', outputs], or with a batch before; logits may be
    log-probabilities. Every frame counts as valid.

    Raises:
        ArtifactError: the file is not as described, or the two differ by more than LARGEST_DIFFERENCE.
    """
    features, logits = (torch.from_numpy(np.asarray(array, np.float32)) for array in _read(path))
    features, logits = (x if x.dim() == 3 else x[None] for x in (features, logits))
    with torch.inference_mode():
        ours = model(features).log_softmax(-1)
    if ours.shape != logits.shape:
        raise ArtifactError(f"{path}: logits are {tuple(logits.shape)}, the checkpoint gives {tuple(ours.shape)} for these features")
    difference = (ours - logits.log_softmax(-1)).abs().max().item()
    if not difference <= LARGEST_DIFFERENCE:
        cause = f"a variant that its tensors do not show, such as {UNSEEN}"
        raise ArtifactError(f"{path}: the imported network differs from the original by {difference:.2g}: {cause}")
    return difference


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = safetensors.numpy.load_file(path) if path.suffix == ".safetensors" else np.load(path, allow_pickle=False)
        return content["features"], content["logits"]
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path}: not an .npz or .safetensors file with features and logits ({error})") from error
