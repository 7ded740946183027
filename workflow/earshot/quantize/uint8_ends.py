"""Schemes for an NPU whose program takes features and gives logits as numbers of 0 to 255."""

from __future__ import annotations

import torch
from executorch.backends.arm.ethosu import EthosUCompileSpec
from executorch.backends.arm.quantizer import EthosUQuantizer
from torchao.quantization.pt2e.quantizer import QuantizationSpec
from torchao.quantization.pt2e.quantizer.utils import annotate_input_qspec_map, annotate_output_qspec


class Uint8Ends(EthosUQuantizer):
    """Arm's quantizer, but for what goes into the program and what comes out of it, which are as `end` says.

    Its own set_io annotates the ends first. Operators that only move numbers (a slice, an unsqueeze) would take the form of what they are
    given: they would move unsigned integers, which Ethos-U cannot.
    """

    def __init__(self, spec: EthosUCompileSpec, end: QuantizationSpec) -> None:
        super().__init__(spec)
        self._end = end

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        model = super().annotate(model)
        for node in model.graph.find_nodes(op="placeholder"):
            if node.users:
                annotate_output_qspec(node, self._end)
        output = model.graph.output_node()
        for node in output.all_input_nodes:
            annotate_input_qspec_map(output, node, self._end)
        return model
