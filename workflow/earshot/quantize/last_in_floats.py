"""Schemes for an NPU that leave the last layers of a network in floats, for the CPU behind it."""

from __future__ import annotations

import torch
from executorch.backends.arm.ethosu import EthosUCompileSpec
from executorch.backends.arm.quantizer import EthosUQuantizer
from torch.fx import Node
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from earshot.errors import ConfigError
from earshot.quantize.module_paths import module_of, paths


class LastInFloats(EthosUQuantizer):
    """Arm's quantizer, which leaves `floats`, modules as it calls them, and all that is computed from them to the CPU."""

    def __init__(self, spec: EthosUCompileSpec, floats: set[str]) -> None:
        super().__init__(spec)
        self._floats = floats

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        model = super().annotate(model)
        for node in [*_behind(self._floats, model), model.graph.output_node()]:
            node.meta.pop(Q_ANNOTATION_KEY, None)  # it would store the logits, and what puts them in their order, in integers again
        return model


def _behind(floats: set[str], graph_module: torch.fx.GraphModule) -> dict[Node, Node]:
    """The operators behind those of `floats`, each with the nearest of these."""
    found: dict[Node, Node] = {}
    for node in graph_module.graph.nodes:
        nearest = (one if not floats.isdisjoint(paths(one)) else found.get(one) for one in node.all_input_nodes)
        if node.op == "call_function" and (source := next(filter(None, nearest), None)):
            found[node] = source
    return found


def check(floats: set[str], family: str, graph_module: torch.fx.GraphModule) -> None:
    """Refuse a scheme by which the CPU would have to compute between two parts of the NPU: each is a program of its own there.

    Raises:
        ConfigError: it names a module in floats and one that follows it.
    """
    for node, source in _behind(floats, graph_module).items():
        if (module := module_of(node)) and floats.isdisjoint(paths(node)):
            raise ConfigError(
                f"quant.parts: {module_of(source)} in floats, but {module} behind it in integers: a target of family {family} leaves only "
                "the last layers to the CPU; leave all that follow in floats too, or choose target=host"
            )
