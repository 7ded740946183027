"""The golden signal of an export: a window of audio, with what features.py computes of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from earshot.errors import ArtifactError
from earshot.features import FrontEnd
from earshot.golden_signal import golden_audio

SAME_FEATURES = 1e-3  # of a normalised feature: another processor may round otherwise


def window(front_end: FrontEnd, frames: int, path: str | None) -> torch.Tensor:
    """Samples [1, n] of a window, full scale 1: of golden.npz, cut or padded with zeros, or of a made-up signal.

    Raises:
        ArtifactError: the file is no golden.npz, or its features are those of another front end.
    """
    samples = front_end.samples(frames)
    audio = _read(front_end, Path(path)) if path else golden_audio(samples)
    cut = np.pad(audio[:samples], (0, max(0, samples - len(audio))))
    return torch.from_numpy(cut.astype(np.float32) / 32768)[None]


def _read(front_end: FrontEnd, path: Path) -> np.ndarray:
    try:
        content = np.load(path, allow_pickle=False)
        audio, features = content["audio"], torch.from_numpy(content["features"])
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: not a golden.npz of the features step ({error}); give its path, or leave golden= out") from error
    own = front_end(audio.astype(np.float32) / 32768)
    if own.shape != features.shape or not (own - features).abs().max() <= SAME_FEATURES:
        raise ArtifactError(f"{path}: its features are not those of the model's front end; give the golden.npz of the model's own features")
    return audio
