"""A model directory: weights, the configuration they belong to, the front end and the pieces; loading executes no code from it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import yaml

from earshot.config import Model
from earshot.errors import ArtifactError
from earshot.features import FrontEnd
from earshot.files import atomic, sha256
from earshot.model.conformer import Conformer
from earshot.tokenizer import read_pieces

WEIGHTS, CONFIG, FRONT_END, PIECES = "model.safetensors", "config.yaml", "front_end.json", "tokenizer.pieces"
DIGEST = "content_sha256"  # in the metadata of the weights


@dataclass
class Recognizer:
    """A trained network with what turns audio into its input and its outputs into text."""

    model: Conformer
    front_end: FrontEnd
    pieces: list[str]
    config: dict  # the resolved configuration that it was trained with


def save(model_dir: str | Path, weights: dict[str, torch.Tensor], config: dict, front_end: str | Path, pieces: str | Path) -> None:
    """Write a model directory: float32 weights, the resolved configuration (with key `model`), and the two files of earlier steps."""
    model_dir = Path(model_dir)
    model_dir.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(front_end, model_dir / FRONT_END)
    shutil.copyfile(pieces, model_dir / PIECES)
    with atomic(model_dir / CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False))
    digests = {"front_end_sha256": sha256(model_dir / FRONT_END), "pieces_sha256": sha256(model_dir / PIECES)}
    write_weights(model_dir / WEIGHTS, weights, {"model": json.dumps(config["model"]), **digests})


def write_weights(path: Path, weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file with a digest of its tensors: the same weights give the same bytes."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    metadata = {"format": "pt", **metadata}
    content = safetensors.torch.save(tensors, {**metadata, DIGEST: digest(tensors, metadata)})
    # The library writes the metadata in an order of chance. A file is the length of the header, the header padded with spaces, the tensors.
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    in_order = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    in_order += b" " * (-len(in_order) % 8)
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        stream.write(len(in_order).to_bytes(8, "little") + in_order)
        stream.write(memoryview(content)[length:])


def digest(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """Hex digest of tensors, with their names, types and shapes, and of what is said of them."""
    found = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.cpu().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def load(model_dir: str | Path) -> Recognizer:
    """Read a model directory.

    Raises:
        ArtifactError: a file is absent or damaged, or the tokenizer or front end is not the one that the weights were trained with.
    """
    model_dir = Path(model_dir)
    weights, metadata = read_weights(model_dir / WEIGHTS)
    front_end, pieces = FrontEnd.load(model_dir / FRONT_END), read_pieces(model_dir / PIECES)
    for name, key in ((FRONT_END, "front_end_sha256"), (PIECES, "pieces_sha256")):
        if sha256(model_dir / name) != metadata.get(key):
            raise ArtifactError(f"{model_dir / name}: not the one that {WEIGHTS} was trained with; take both from the same training")
    model = Conformer(Model(**json.loads(metadata["model"])), front_end.n_mels, len(pieces))
    load_weights(model, weights, model_dir / WEIGHTS)
    try:
        config = yaml.safe_load((model_dir / CONFIG).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{model_dir / CONFIG}: damaged or absent ({reason}); delete it and run the training step again") from error
    return Recognizer(model.eval(), front_end, pieces, config)


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        ArtifactError: it is absent or damaged; where `write_weights` wrote it, any other bit in it is found.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            tensors, metadata = {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata() or {}  # noqa: SIM118 (no mapping)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run the training step") from None
    except safetensors.SafetensorError as error:
        raise ArtifactError(f"{path}: damaged or no safetensors file ({error}); delete it and run the training step again") from error
    if DIGEST in metadata and metadata[DIGEST] != digest(tensors, {key: value for key, value in metadata.items() if key != DIGEST}):
        raise ArtifactError(f"{path}: damaged, not what was written (its {DIGEST} says so); delete it and run the training step again")
    return tensors, metadata


def load_weights(model: Conformer, weights: dict[str, torch.Tensor], source: Path) -> None:
    """Put `weights` into `model`, every tensor by name and shape.

    Raises:
        ArtifactError: a tensor is missing, extra or of another shape; the first few are named.
    """
    wanted = model.state_dict()
    wrong = [f"missing {name} {tuple(wanted[name].shape)}" for name in wanted.keys() - weights.keys()]
    wrong += [f"unknown {name}" for name in weights.keys() - wanted.keys()]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted.keys() & weights.keys()
        if wanted[name].shape != weights[name].shape
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:3])
        reason = f"a checkpoint of another model or tokenizer ({len(wrong)} tensors differ: {shown})"
        raise ArtifactError(f"{source}: {reason}; choose the model it was trained as")
    model.load_state_dict(weights)


def model_digest(model_dir: str | Path) -> str:
    """The digest that names the weights of a model directory."""
    return sha256(Path(model_dir) / WEIGHTS)
