"""Schemes: which numbers hold weights and activations, as the quantizer of each family of targets wants it said."""

from __future__ import annotations

import dataclasses

import torch
from executorch.backends.arm.ethosu import EthosUCompileSpec
from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_a16w8_quantization_config
from executorch.backends.arm.quantizer import get_symmetric_quantization_config as arm_int8
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import get_symmetric_quantization_config as xnnpack_int8
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationSpec, Quantizer

from earshot.config import Calib, Quant
from earshot.errors import ConfigError

OBSERVERS = {"histogram": HistogramObserver, "minmax": MinMaxObserver}

# What decides how an Ethos-U program is quantized is the operator set, which all targets of a family share: one of them stands for all.
_REPRESENTATIVES = {
    "u85": {"target": "ethos-u85-256", "system_config": "Ethos_U85_SYS_Flash_High", "memory_mode": "Shared_Sram"},
    "u55": {"target": "ethos-u55-256", "system_config": "Ethos_U55_High_End_Embedded", "memory_mode": "Shared_Sram"},
}


def operator_set(family: str) -> str:
    """The TOSA specification that all Ethos-U targets of a family share."""
    return str(EthosUCompileSpec(**_REPRESENTATIVES[family]).tosa_spec)


def check(quant: Quant, family: str) -> None:
    """Refuse a scheme that the targets of a family cannot run.

    Raises:
        ConfigError: it names the families that can.
    """
    if family not in quant.families:
        raise ConfigError(
            f"quant={quant.scheme}: not possible on targets of family {family}; choose a target of family {', '.join(quant.families)}"
        )
    if not quant.quantize:
        if family != "host":
            raise ConfigError(
                f"quant={quant.scheme}: family {family} computes in integers only; choose target=host, or a quant with integers"
            )
    elif quant.weight_bits not in (4, 8) or quant.activation_bits not in (8, 16):
        raise ConfigError(
            f"quant.weight_bits={quant.weight_bits}, quant.activation_bits={quant.activation_bits}: choose weights of 4 or 8 bits, "
            "activations of 8 or 16 bits"
        )
    elif family == "host" and quant.activation_bits == 16:
        raise ConfigError(
            f"quant={quant.scheme}: XNNPACK has no 16-bit activations; choose a target of family u85 or u55, or quant.activation_bits=8"
        )


def _observed(spec: QuantizationSpec, calib: Calib) -> QuantizationSpec:
    """The spec of an activation with the observer that `calib` asks for, everything else as the backend has it."""
    smallest_scale = spec.observer_or_fake_quant_ctr.p.keywords["eps"]
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=OBSERVERS[calib.observer].with_args(eps=smallest_scale))


def quantizer(quant: Quant, calib: Calib, family: str) -> Quantizer:
    """The quantizer of `family` set to the scheme `quant`, activations observed as `calib` says."""
    weight_max = 2 ** (quant.weight_bits - 1) - 1
    if family == "host":
        config = xnnpack_int8(is_per_channel=quant.per_channel, weight_qmin=-weight_max, weight_qmax=weight_max)
    elif quant.activation_bits == 16:
        config = get_symmetric_a16w8_quantization_config(is_per_channel=quant.per_channel)
        weight = dataclasses.replace(config.weight, quant_min=-weight_max, quant_max=weight_max)
        config = dataclasses.replace(config, weight=weight)
    else:
        config = arm_int8(is_per_channel=quant.per_channel, weight_qmin=-weight_max, weight_qmax=weight_max)
    activation = _observed(config.input_activation, calib)
    config = dataclasses.replace(config, input_activation=activation, output_activation=activation)
    if family == "host":
        return XNNPACKQuantizer().set_global(config)
    return EthosUQuantizer(EthosUCompileSpec(**_REPRESENTATIVES[family])).set_global(config)


def by_module(graph_module: torch.fx.GraphModule) -> dict[str, dict[str, str]]:
    """How each layer with weights of a program stores its numbers: {module: {"weight": ..., "activation": ...}}."""
    layers = {"linear", "conv1d", "conv2d"}
    found: dict[str, dict[str, str]] = {}
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or getattr(node.target, "_opname", "") not in layers or not node.meta.get("nn_module_stack"):
            continue
        module, _ = list(node.meta["nn_module_stack"].values())[-1]
        name = module.removeprefix("L['self'].").replace("slice(None, None, None)", "")
        found[name] = {"weight": _stored(node.args[1]), "activation": _stored(node.args[0])}
    return found


def _stored(node: torch.fx.Node) -> str:
    """Type, granularity and range of what a dequantize node reads."""
    for kind, granularity, at in (("dequantize_per_channel", "per channel", 4), ("dequantize_per_tensor", "per tensor", 3)):
        if kind in str(node.target):
            low, high, dtype = node.args[at : at + 3]
            return f"{str(dtype).removeprefix('torch.')} {granularity} [{low}, {high}]"
    return "float32"
