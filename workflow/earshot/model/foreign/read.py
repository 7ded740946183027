"""The tensors of a checkpoint file; reading runs no code from it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from earshot.errors import ArtifactError

# Under which keys trainers put the weights beside the state of the optimizer, in the order in which they are looked for.
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "net", "module", "weights")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a .safetensors file, or of what `torch.save` wrote: the state dict itself, or a mapping that holds it.

    Raises:
        ArtifactError: the file is absent, damaged, holds no state dict, or holds objects of other classes than PyTorch's.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; give the checkpoint as checkpoint=FILE")
    if path.suffix == ".safetensors":
        try:
            content: Any = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ArtifactError(f"{path}: damaged or no safetensors file ({error}); fetch it again") from error
    else:
        content = _unpickled(path)
    tensors = _state_dict(content)
    if tensors is None:
        found = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        wanted = f"a state dict, or a mapping with one under {', '.join(WEIGHT_KEYS)}"
        raise ArtifactError(f"{path}: holds {found}, not {wanted}; save the model's state_dict() alone")
    broken = next((name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()), None)
    if broken:
        raise ArtifactError(f"{path}: {broken} holds values that are not finite; take a checkpoint from before the training diverged")
    return tensors


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error) and "Unsupported" not in str(error):
            raise ArtifactError(f"{path}: damaged or no checkpoint of PyTorch; fetch it again") from error
        reason = "damaged, or it holds objects that are no tensors and would run code when they are loaded"
        raise ArtifactError(f"{path}: {reason}; save the model's state_dict() alone") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ArtifactError(f"{path}: damaged or no checkpoint of PyTorch ({first}); fetch it again") from error


def _state_dict(content: Any, depth: int = 2) -> dict[str, torch.Tensor] | None:
    if not isinstance(content, Mapping) or not content:
        return None
    if all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()):
        return dict(content)
    nested = (_state_dict(content.get(key), depth - 1) for key in WEIGHT_KEYS if depth)
    return next((found for found in nested if found), None)
