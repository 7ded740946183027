"""What a program with a cache of left context (model/streaming.py) has on disk: in quantize.json as `cache`, and the first cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from earshot.errors import ArtifactError
from earshot.files import atomic
from earshot.model.subsampling import OutputGrid
from earshot.windows import Layout

FIRST_CACHE = "first_cache.npy"  # float32 [rows, D]: what is given with the first window of an utterance


def layout(report: dict[str, Any]) -> Layout:
    """How the windows of a program with a cache follow each other, by its report."""
    cache = report["cache"]
    return Layout(report["window_frames"], cache["look_ahead"], OutputGrid(report["subsampling_stages"]), cache["left"])


def read_first_cache(folder: Path, report: dict[str, Any]) -> torch.Tensor:
    """The cache [rows, D] that the first window of an utterance is given.

    Raises:
        ArtifactError: absent, damaged, or of another program.
    """
    path = folder / FIRST_CACHE
    try:
        cache = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{path}: absent or damaged ({error}); run the quantize step again") from error
    if cache.dtype != np.float32 or list(cache.shape) != report["cache"]["shape"]:
        raise ArtifactError(
            f"{path}: {cache.dtype} {list(cache.shape)}, expected float32 {report['cache']['shape']}; run the quantize step again"
        )
    return torch.from_numpy(cache)


def write_first_cache(folder: Path, cache: torch.Tensor) -> None:
    """Write the cache [rows, D] of the first window."""
    with atomic(folder / FIRST_CACHE) as temporary:
        np.save(temporary, cache.numpy())
