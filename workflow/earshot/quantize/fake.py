"""Rounding that can be trained through: a network whose weights and activations are rounded as its quantized program will have them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torchao.quantization.pt2e import FakeQuantize, ObserverBase
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import Quantizer

from earshot.quantize.tracing import lean_tracing, quiet

STEEP = (torch.ops.aten.rsqrt.default, torch.ops.aten.reciprocal.default)
SMALLEST = 1e-9  # its rsqrt to the third, and its reciprocal squared, are far from float32's largest number


class FakeActivation(FakeQuantize):
    """An activation: observed and left as it is, or rounded within the range that was found when observing ended.

    torchao's looks for the range anew after each batch that it observes, which takes an observer with a histogram longer than the network.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.observing = False
        self.observe_with(self.activation_post_process)

    def observe_with(self, observer: ObserverBase) -> None:
        """Observe, from now on, with copies of `observer`, which has seen nothing."""
        self.activation_post_process = observer
        self._unused = (copy.deepcopy(observer),)  # in a tuple: no part of the network

    def observe(self) -> None:
        """Forget the range: from now on, observe."""
        self.activation_post_process, self.observing = copy.deepcopy(self._unused[0]), True

    def settle(self) -> None:
        """Round, from now on, within the range that follows from what was observed."""
        self.put(*self.activation_post_process.calculate_qparams())

    def put(self, scale: torch.Tensor, zero_point: torch.Tensor) -> None:
        """Round, from now on, by these."""
        for own, given in ((self.scale, scale), (self.zero_point, zero_point)):
            own.resize_(given.shape).copy_(given)
        self.observing = False

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scale, self.zero_point

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.observing:
            self.activation_post_process(x.detach())
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.quant_min, self.quant_max)


def prepare(exported: ExportedProgram, quantizer: Quantizer) -> GraphModule:
    """The program with rounding where `quantizer`, made for training, asks for it."""
    with quiet(), lean_tracing():
        prepared = prepare_qat_pt2e(exported.module(check_guards=False), quantizer)
    prepared.recompile()
    return prepared


def keep_gradients_finite(prepared: GraphModule) -> None:
    """Keep what roots and quotients are taken of above zero, where rounding has made it zero.

    What comes out lies beyond its range all the same and passes no gradient on; but no gradient times an infinite slope would be no number.
    """
    for node in list(prepared.graph.nodes):
        if node.target in STEEP:
            with prepared.graph.inserting_before(node):
                above_zero = prepared.graph.call_function(torch.ops.aten.clamp_min.default, (node.args[0], SMALLEST))
            node.replace_input_with(node.args[0], above_zero)
    prepared.recompile()


def activations(prepared: GraphModule) -> Iterator[FakeActivation]:
    """What rounds the activations, in the order of the program."""
    return (module for module in prepared.modules() if isinstance(module, FakeActivation))


@torch.no_grad()
def observe(prepared: GraphModule, inputs: Iterable[tuple[torch.Tensor, ...]]) -> None:
    """Find the ranges of all activations anew, from `inputs` of windows."""
    for activation in activations(prepared):
        activation.observe()
    for of_window in inputs:
        prepared(*of_window)
    for activation in activations(prepared):
        activation.settle()


def ranges(prepared: GraphModule) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Scale and zero point of each activation."""
    return [(activation.scale.clone(), activation.zero_point.clone()) for activation in activations(prepared)]


def put_ranges(prepared: GraphModule, found: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Let the activations be rounded by the `ranges` of a program of the same network."""
    for activation, (scale, zero_point) in zip(activations(prepared), found, strict=True):
        activation.put(scale, zero_point)


def convert(prepared: GraphModule) -> GraphModule:
    """The quantized program of a network as it is rounded now; its weights were last rounded as they are."""
    with quiet(), lean_tracing():
        converted = convert_pt2e(prepared)
    converted.recompile()
    return converted
