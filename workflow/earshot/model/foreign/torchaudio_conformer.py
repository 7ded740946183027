"""torchaudio.models.Conformer with a linear layer after it.

It subsamples nothing and knows no positions; features must be as wide as the blocks. `use_group_norm=True` is refused. Its
`convolution_first=True` leaves no trace in the tensors and is not supported: a file for `check` finds it.
"""

from __future__ import annotations

import math
import re

from earshot.config import Imported, Model
from earshot.errors import ConfigError
from earshot.model.foreign.transfer import Transfer

NAME = "torchaudio.models.Conformer"
OWN_NAME = re.compile(r"(.*?)conformer_layers\.\d+\.")  # what stands before is the prefix
LAYER = "conformer_layers.{}."


def convert(transfer: Transfer, options: Imported, n_mels: int) -> Model:
    """Take everything out of `transfer`; the configuration of the Conformer that it makes.

    Raises:
        ArtifactError: a tensor from which a size is inferred is absent, or a variant is not known.
        ConfigError: the number of heads is not given or does not divide, or n_mels is another one.
    """
    first = LAYER.format(0)
    hidden, dim = transfer.shape(f"{first}ffn1.sequential.1.weight", 2)
    if options.heads is None:
        raise ConfigError(f"heads: {transfer.source} does not tell the number of attention heads; add heads=NUMBER, a divisor of {dim}")
    if dim % options.heads:
        raise ConfigError(
            f"heads={options.heads}: does not divide the {dim} channels of {transfer.source}; give the number of its training"
        )
    if n_mels != dim:
        raise ConfigError(f"features.n_mels={n_mels}: {transfer.source} takes features of {dim} bins; choose its front end")
    for name, value, default in (("score_scale", options.score_scale, "auto"), ("half_step_residual", options.half_step_residual, True)):
        if value != default:
            raise ConfigError(f"{name}={value}: {NAME} has no such choice; leave it out")
    config = Model(
        dim=dim,
        layers=transfer.count(LAYER),
        heads=options.heads,
        feed_forward_factor=math.ceil(hidden / dim),
        conv_kernel=transfer.kernel(f"{first}conv_module.sequential.2.weight"),
        subsampling_channels=[],
        positions="none",
    )
    for i in range(config.layers):
        block(transfer, i, config, hidden)
    transfer.prefix = ""  # the linear layer belongs to whatever holds the Conformer
    name, outputs = head(transfer, dim)
    transfer.linear("output", name, outputs, dim, bias_optional=True)
    return config


def block(transfer: Transfer, index: int, config: Model, hidden: int) -> None:
    theirs, ours, dim = LAYER.format(index), f"blocks.{index}", config.dim
    for number in ("1", "2"):
        names = tuple(f"{theirs}ffn{number}.sequential.{layer}" for layer in ("0", "1", "4"))
        transfer.feed_forward(f"{ours}.feed_forward{number}", names, dim, hidden, config.feed_forward_factor)
    transfer.norm(f"{ours}.self_attention.norm", f"{theirs}self_attn_layer_norm", dim)
    attention = f"{ours}.self_attention.attention."
    packed = transfer.take(f"{theirs}self_attn.in_proj_weight", 3 * dim, dim).chunk(3)
    biases = transfer.take(f"{theirs}self_attn.in_proj_bias", 3 * dim).chunk(3)
    for name, weight, bias in zip(("query", "key", "value"), packed, biases, strict=True):
        transfer.put(f"{attention}{name}.weight", weight)
        transfer.put(f"{attention}{name}.bias", bias)
    transfer.linear(f"{attention}out", f"{theirs}self_attn.out_proj", dim, dim)
    convolution = f"{theirs}conv_module."
    layers = tuple(f"{convolution}sequential.{layer}" for layer in "0235")
    transfer.convolution(f"{ours}.convolution", f"{convolution}layer_norm", layers, dim, config.conv_kernel, bias_optional=False)
    transfer.norm(f"{ours}.norm", f"{theirs}final_layer_norm", dim)


def head(transfer: Transfer, dim: int) -> tuple[str, int]:
    """The name and the outputs of the linear layer, whatever it is called: the one weight that is no block's.

    Raises:
        ArtifactError: there is none, or another one or more.
    """
    found = {name: shape for name, shape in transfer.left().items() if name.endswith(".weight") and not OWN_NAME.match(name)}
    if [shape[1:] for shape in found.values()] != [(dim,)]:
        others = ", ".join(f"{name} {shape}" for name, shape in found.items()) or "none"
        transfer.refuse(f"expected one linear layer [outputs, {dim}] beside the blocks of {NAME}, found {others}")
    ((name, shape),) = found.items()
    return name.removesuffix(".weight"), shape[0]
