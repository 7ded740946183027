"""The public Conformer of https://github.com/sooftware/conformer with its CTC layer: what Arm's example for the Ethos-U85 trains.

Of its releases, those with a buffer `positional_encoding.pe` (February to November 2022) take absolute positions for distances and divide
the scores by sqrt(dim); the later ones have distances and sqrt(dim / heads). In all, the features are flattened channels first.
"""

from __future__ import annotations

import math
import re

import torch

from earshot.config import Imported, Model
from earshot.errors import ConfigError
from earshot.model.attention import absolute_positions
from earshot.model.foreign.transfer import Transfer
from earshot.model.subsampling import OutputGrid

NAME = "sooftware's Conformer"
OWN_NAME = re.compile(r"(.*?)encoder\.(?:conv_subsample|layers\.\d+)\.sequential\.")  # what stands before is the prefix
PROJECT, LAYER = "encoder.input_projection.0.linear", "encoder.layers.{}.sequential."
PE = "1.module.positional_encoding.pe"
COMPARED = 1000  # rows of `pe` that are compared; further on, float32 angles differ by how they were computed


def convert(transfer: Transfer, options: Imported, n_mels: int) -> Model:
    """Take everything out of `transfer`; the configuration of the Conformer that it makes.

    Raises:
        ArtifactError: a tensor from which a size is inferred is absent, or a variant is not known.
        ConfigError: n_mels or an option does not fit the tensors.
    """
    refuse_unknown_variants(transfer)
    channels = [transfer.shape(f"encoder.conv_subsample.sequential.{i}.weight", 4)[0] for i in (0, 2)]
    dim = transfer.shape(f"{PROJECT}.weight", 2)[0]
    first = LAYER.format(0)
    hidden = transfer.shape(f"{first}0.module.sequential.1.linear.weight", 2)[0]
    kernel = transfer.kernel(f"{first}2.module.sequential.4.conv.weight")
    heads, d_head = transfer.shape(f"{first}1.module.attention.u_bias", 2)
    if heads * d_head != dim:
        transfer.refuse(f"{transfer.prefix}{first}1.module.attention.u_bias is ({heads}, {d_head}): its heads do not divide {dim} channels")
    if options.heads not in (None, heads):
        raise ConfigError(f"heads={options.heads}: {transfer.source} has {heads}; leave it out")
    absolute = transfer.has(first + PE)
    config = Model(
        dim=dim,
        layers=transfer.count(LAYER),
        heads=heads,
        feed_forward_factor=math.ceil(hidden / dim),
        conv_kernel=kernel,
        subsampling_channels=channels,
        positions="absolute" if absolute else "relative",
    )
    by_dim = absolute if options.score_scale == "auto" else options.score_scale == "d_model"
    subsampling(transfer, channels, dim, n_mels)
    for i in range(config.layers):
        block(transfer, i, config, hidden, math.sqrt(1 / heads) if by_dim else 1.0, 1.0 if options.half_step_residual else 2.0)
    head = next((name for name in ("fc.linear", "fc") if transfer.has(f"{name}.weight")), "fc.linear")
    transfer.linear("output", head, transfer.shape(f"{head}.weight", 2)[0], dim, bias_optional=True)
    return config


def refuse_unknown_variants(transfer: Transfer) -> None:
    """
    Raises:
        ArtifactError: a variant by name.
    """
    for name in transfer.left():
        if name.endswith(".gamma"):
            transfer.refuse(f"{name}: LayerNorm that divides by the deviation plus epsilon, of releases before June 2021")
        if name.removeprefix(transfer.prefix).startswith("decoder."):
            transfer.refuse(f"{name}: a transducer with its decoder, not a model with a CTC layer")


def subsampling(transfer: Transfer, channels: list[int], dim: int, n_mels: int) -> None:
    """Two convolutions, and the projection with its columns [channel, bin] permuted to [bin, channel]."""
    for i, (inputs, outputs) in enumerate(zip([1, *channels], channels, strict=False)):
        theirs = f"encoder.conv_subsample.sequential.{2 * i}"
        transfer.put(f"subsampling.convs.{i}.weight", transfer.take(f"{theirs}.weight", outputs, inputs, 3, 3))
        transfer.put(f"subsampling.convs.{i}.bias", transfer.take(f"{theirs}.bias", outputs))
    bins, columns = OutputGrid(len(channels)).output_frames(n_mels), transfer.shape(f"{PROJECT}.weight", 2)[1]
    if columns != channels[-1] * bins and columns % channels[-1] == 0:
        their_bins = columns // channels[-1]
        fitting = f"{4 * their_bins + 3} to {4 * their_bins + 6}"
        raise ConfigError(f"features.n_mels={n_mels}: {transfer.source} was trained on {fitting} mel bins; choose its front end")
    weight = transfer.take(f"{PROJECT}.weight", dim, channels[-1] * bins)
    transfer.put("subsampling.project.weight", weight.unflatten(1, (channels[-1], bins)).transpose(1, 2).flatten(1))
    transfer.put("subsampling.project.bias", transfer.take(f"{PROJECT}.bias", dim))


def block(transfer: Transfer, index: int, config: Model, hidden: int, score_gain: float, feed_forward_gain: float) -> None:
    """One block; `score_gain`: what the scores are to be multiplied by beyond our own 1 / sqrt(dim / heads)."""
    theirs, ours, dim = LAYER.format(index), f"blocks.{index}", config.dim
    for number, module in (("1", "0"), ("2", "3")):
        names = tuple(f"{theirs}{module}.module.sequential.{layer}" for layer in ("0", "1.linear", "4.linear"))
        transfer.feed_forward(f"{ours}.feed_forward{number}", names, dim, hidden, config.feed_forward_factor, feed_forward_gain)
    attention(transfer, f"{theirs}1.module.", f"{ours}.self_attention.", config, score_gain)
    if config.positions == "absolute":
        check_table(transfer, theirs + PE, dim)
    convolution = f"{theirs}2.module.sequential."
    layers = tuple(convolution + layer for layer in ("2.conv", "4.conv", "5", "7.conv"))
    transfer.convolution(f"{ours}.convolution", f"{convolution}0", layers, dim, config.conv_kernel, bias_optional=True)
    transfer.norm(f"{ours}.norm", f"{theirs}4", dim)


def attention(transfer: Transfer, theirs: str, ours: str, config: Model, gain: float) -> None:
    """Scores are linear in the query with u or v added, so that a factor of theirs goes into the query's weights, u and v."""
    dim, heads = config.dim, config.heads
    transfer.norm(f"{ours}norm", f"{theirs}layer_norm", dim)
    for name in ("query", "key", "value", "out"):
        transfer.linear(f"{ours}attention.{name}", f"{theirs}attention.{name}_proj.linear", dim, dim)
    transfer.put(f"{ours}attention.position.weight", transfer.take(f"{theirs}attention.pos_proj.linear.weight", dim, dim))
    for name in ("u", "v"):
        transfer.put(f"{ours}attention.{name}", transfer.take(f"{theirs}attention.{name}_bias", heads, dim // heads).unsqueeze(1))
    for name in ("query.weight", "query.bias", "u", "v"):
        transfer.put(f"{ours}attention.{name}", transfer.weights[f"{ours}attention.{name}"] * gain)


def check_table(transfer: Transfer, name: str, dim: int) -> None:
    """
    Raises:
        ArtifactError: the table of positions is not that of the sinusoids.
    """
    rows = transfer.shape(name, 3)[1]
    table, compared = transfer.take(name, 1, rows, dim)[0], min(rows, COMPARED)
    if not torch.allclose(table[:compared], absolute_positions(compared, dim), atol=1e-3):
        transfer.refuse(f"{transfer.prefix}{name}: a table of positions other than the sinusoids of Vaswani et al., 2017")
