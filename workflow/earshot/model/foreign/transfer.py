"""Tensors taken one by one out of a foreign checkpoint and put under this package's names; at the end nothing may be missing or left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from earshot.errors import ArtifactError

SHOWN = 3  # faults in a message


class Transfer:
    """`weights` fills up as tensors are taken. A tensor that is absent or misshapen is noted and stands as zeros until `finish` says so.

    Args:
        tensors: the state dict, by full names.
        source: its file, for messages.
        prefix: what stands before all names, such as `module.`.
    """

    def __init__(self, tensors: dict[str, torch.Tensor], source: Path, prefix: str) -> None:
        self.source, self.prefix = source, prefix
        self.weights: dict[str, torch.Tensor] = {}
        self._tensors, self._left = tensors, dict.fromkeys(tensors)
        self._faults: list[str] = []

    def left(self) -> dict[str, tuple[int, ...]]:
        """The tensors that were not taken so far, by their full names, with their shapes."""
        return {name: tuple(self._tensors[name].shape) for name in self._left}

    def has(self, name: str) -> bool:
        return self.prefix + name in self._tensors

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of a tensor from which sizes are inferred.

        Raises:
            ArtifactError: it is absent, or of another number of dimensions.
        """
        if not self.has(name):
            self.refuse(f"missing {self.prefix}{name}, which tells the sizes")
        shape = tuple(self._tensors[self.prefix + name].shape)
        if len(shape) != dimensions:
            self.refuse(f"{self.prefix}{name} is {shape}, expected {dimensions} dimensions")
        return shape

    def kernel(self, name: str) -> int:
        """The length of a depthwise convolution's kernel.

        Raises:
            ArtifactError: it is even, so that it cannot be centred.
        """
        length = self.shape(name, 3)[2]
        if length % 2 == 0:
            self.refuse(f"{self.prefix}{name}: a kernel of {length} frames, expected an odd number")
        return length

    def count(self, pattern: str) -> int:
        """How many of `pattern` with {} as 0, 1, 2 ... there are, up to the last of which there is a tensor."""
        numbered = re.compile(re.escape(self.prefix + pattern).replace(r"\{\}", r"(\d+)"))
        return 1 + max(int(found[1]) for found in map(numbered.match, self._tensors) if found)

    def take(self, name: str, *shape: int, optional: bool = False) -> torch.Tensor:
        """A tensor in float32; zeros where an `optional` one is absent."""
        full = self.prefix + name
        if full not in self._tensors:
            if not optional:
                self._faults.append(f"missing {full} {shape}")
            return torch.zeros(shape)
        self._left.pop(full, None)
        tensor = self._tensors[full]
        if tuple(tensor.shape) != shape:
            self._faults.append(f"{full} is {tuple(tensor.shape)}, expected {shape}")
            return torch.zeros(shape)
        return tensor.to(torch.float32)

    def put(self, name: str, tensor: torch.Tensor) -> None:
        self.weights[name] = tensor.contiguous()

    def linear(self, ours: str, theirs: str, outputs: int, inputs: int, bias_optional: bool = False) -> None:
        """A linear layer as it is."""
        self.put(f"{ours}.weight", self.take(f"{theirs}.weight", outputs, inputs))
        self.put(f"{ours}.bias", self.take(f"{theirs}.bias", outputs, optional=bias_optional))

    def norm(self, ours: str, theirs: str, dim: int) -> None:
        """The gain and the offset of a LayerNorm or BatchNorm."""
        self.put(f"{ours}.weight", self.take(f"{theirs}.weight", dim))
        self.put(f"{ours}.bias", self.take(f"{theirs}.bias", dim))

    def feed_forward(self, ours: str, theirs: Sequence[str], dim: int, hidden: int, factor: int, gain: float = 1.0) -> None:
        """LayerNorm, linear layer, Swish, linear layer (`theirs` are the three with parameters), the result times `gain`.

        Hidden units up to `factor` * `dim` are added with zero weights: their Swish is 0, and so is what they add.
        """
        (norm, first, second), pad, more = theirs, torch.nn.functional.pad, factor * dim - hidden
        self.norm(f"{ours}.norm", norm, dim)
        self.put(f"{ours}.widen.weight", pad(self.take(f"{first}.weight", hidden, dim), (0, 0, 0, more)))
        self.put(f"{ours}.widen.bias", pad(self.take(f"{first}.bias", hidden), (0, more)))
        self.put(f"{ours}.narrow.weight", pad(self.take(f"{second}.weight", dim, hidden), (0, more)) * gain)
        self.put(f"{ours}.narrow.bias", self.take(f"{second}.bias", dim) * gain)

    def convolution(self, ours: str, norm: str, layers: Sequence[str], dim: int, kernel: int, bias_optional: bool) -> None:
        """LayerNorm, and `layers` pointwise convolution, depthwise convolution, BatchNorm, pointwise convolution.

        Raises:
            ArtifactError: there are no running statistics: the normalisation after the depthwise convolution is no BatchNorm.
        """
        first, depthwise, batch_norm, last = layers
        if not self.has(f"{batch_norm}.running_mean") and self.has(f"{batch_norm}.weight"):
            self.refuse(f"no {self.prefix}{batch_norm}.running_mean: GroupNorm or LayerNorm in the convolution module instead of BatchNorm")
        self.norm(f"{ours}.norm", norm, dim)
        for name, theirs, outputs in (("pointwise_in", first, 2 * dim), ("pointwise_out", last, dim)):
            self.put(f"{ours}.{name}.weight", self.take(f"{theirs}.weight", outputs, dim, 1).squeeze(-1))
            self.put(f"{ours}.{name}.bias", self.take(f"{theirs}.bias", outputs))
        self.put(f"{ours}.depthwise.weight", self.take(f"{depthwise}.weight", dim, 1, kernel))
        self.put(f"{ours}.depthwise.bias", self.take(f"{depthwise}.bias", dim, optional=bias_optional))
        self.norm(f"{ours}.batch_norm", batch_norm, dim)
        for name in ("running_mean", "running_var"):
            self.put(f"{ours}.batch_norm.{name}", self.take(f"{batch_norm}.{name}", dim))
        batches = self.take(f"{batch_norm}.num_batches_tracked", optional=True)
        self.put(f"{ours}.batch_norm.num_batches_tracked", batches.to(torch.int64))

    def refuse(self, reason: str) -> None:
        """
        Raises:
            ArtifactError: always.
        """
        raise ArtifactError(f"{self.source}: {reason}; cannot be imported exactly")

    def finish(self) -> None:
        """
        Raises:
            ArtifactError: tensors were missing or misshapen, or some are left that mean nothing to the implementation.
        """
        faults = self._faults + [f"unknown {name}" for name in self._left]
        if faults:
            shown = "; ".join(faults[:SHOWN]) + (" ..." if len(faults) > SHOWN else "")
            raise ArtifactError(f"{self.source}: {len(faults)} tensors do not fit: {shown}; give the whole checkpoint of one such model")
