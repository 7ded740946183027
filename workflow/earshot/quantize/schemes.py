"""Schemes: which numbers hold weights and activations, as the quantizer of each family of targets wants it said."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Any

import torch
from executorch.backends.arm.ethosu import EthosUCompileSpec
from executorch.backends.arm.quantizer import EthosUQuantizer, get_symmetric_a16w8_quantization_config, get_uint8_io_quantization_config
from executorch.backends.arm.quantizer import get_symmetric_quantization_config as arm_int8
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import get_symmetric_quantization_config as xnnpack_int8
from torchao.quantization.pt2e import FakeQuantize, MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import QuantizationSpec, Quantizer

from earshot.config import Calib, Precision, Quant
from earshot.errors import ConfigError
from earshot.quantize import last_in_floats, observers, uint8_ends
from earshot.quantize.fake import FakeActivation
from earshot.quantize.module_paths import name as _name
from earshot.quantize.module_paths import paths as _paths

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
    if family != "host" and not quant.quantize:
        raise ConfigError(f"quant={quant.scheme}: family {family} computes in integers only; choose target=host, or a quant with integers")
    if family != "host" and any(precision.dynamic for precision in quant.precisions):
        raise ConfigError(f"quant={quant.scheme}: family {family} has no dynamic ranges; choose target=host, or a quant without dynamic")
    if family == "host" and quant.uint8_io:
        raise ConfigError(
            f"quant={quant.scheme}: a program of the host takes floats; choose a target of family u85 or u55, or quant.uint8_io=false"
        )
    if family == "host" and any(precision.activation_bits == 16 for precision in quant.precisions):
        raise ConfigError(
            f"quant={quant.scheme}: XNNPACK has no 16-bit activations; choose a target of family u85 or u55, or quant.activation_bits=8"
        )


def _observed(spec: QuantizationSpec, calib: Calib, training: bool) -> QuantizationSpec:
    """The spec of an activation with the observer that `calib` asks for, everything else as the backend has it."""
    kind, settings = observers.kind(calib)
    observer = kind.with_args(eps=_smallest_scale(spec), **settings)
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=FakeActivation.with_args(observer=observer) if training else observer)


def _trained(spec: QuantizationSpec) -> QuantizationSpec:
    """The spec of weights that are rounded by their range of the moment, and that learn."""
    if spec.qscheme == torch.per_channel_symmetric:
        observer = MovingAveragePerChannelMinMaxObserver.with_args(ch_axis=spec.ch_axis)
    else:
        observer = MovingAverageMinMaxObserver
    settings = {"averaging_constant": 1.0, "eps": _smallest_scale(spec)}  # the newest range alone
    return dataclasses.replace(spec, observer_or_fake_quant_ctr=FakeQuantize.with_args(observer=observer, **settings))


def _smallest_scale(spec: QuantizationSpec) -> float:
    return spec.observer_or_fake_quant_ctr.p.keywords["eps"]


def quantizer(quant: Quant, calib: Calib, family: str, graph_module: torch.fx.GraphModule, training: bool = False) -> Quantizer:
    """The quantizer of `family` set to the scheme `quant` for an exported network, activations observed as `calib` says.

    `training`: for `fake.prepare`, weights are rounded by their range of the moment.

    Raises:
        ConfigError: no module of the network has a name that a part of the scheme asks for; prepare_pt2e, one that `calib.parts` does.
    """
    left, parts = module_names(graph_module), []
    for part in quant.parts:
        chosen = [name for name in left if fnmatch.fnmatchcase(name, part.modules)]
        if not chosen:
            known = ", ".join(by_module(graph_module))
            raise ConfigError(f"quant.parts: {part.modules}: no module has such a name, or an earlier part has it; layers are {known}")
        config = _backend_config(part, calib, family, training) if part.quantize else None
        parts += [(left.pop(name), config) for name in chosen]
    floats = {path for path, config in parts if config is None}
    if family == "host":
        made = XNNPACKQuantizer()
        made.set_filter_function(lambda node: floats.isdisjoint(_paths(node)))
        parts = [(name, config) for name, config in parts if config is not None]
    else:
        last_in_floats.check(floats, family, graph_module)
        spec = EthosUCompileSpec(**_REPRESENTATIVES[family])
        if floats:
            made = last_in_floats.LastInFloats(spec, floats)
        elif quant.uint8_io:
            made = uint8_ends.Uint8Ends(spec, _observed(get_uint8_io_quantization_config().input_activation, calib, training))
        else:
            made = EthosUQuantizer(spec)
    made.set_global(_backend_config(quant, calib, family, training))
    # The first part that has a node decides: as does the first name that XNNPACK's quantizer is told, and the last that Ethos-U's is.
    for name, config in parts if family == "host" else reversed(parts):
        made.set_module_name(name, config)

    def choose_observers(_graph_module: torch.fx.GraphModule, found: dict) -> None:
        observers.choose(calib.parts, found)
        observers.follow_tables(found)

    made.prepare_obs_or_fq_callback = choose_observers
    return made


def _backend_config(precision: Precision, calib: Calib, family: str, training: bool) -> Any:
    """A precision as the quantizer of `family` wants it said."""
    weight_max = 2 ** (precision.weight_bits - 1) - 1
    if family == "host":
        config = xnnpack_int8(precision.per_channel, is_dynamic=precision.dynamic, weight_qmin=-weight_max, weight_qmax=weight_max)
        if precision.dynamic:
            return config
    elif precision.activation_bits == 16:
        config = get_symmetric_a16w8_quantization_config(is_per_channel=precision.per_channel)
        weight = dataclasses.replace(config.weight, quant_min=-weight_max, quant_max=weight_max)
        config = dataclasses.replace(config, weight=weight)
    else:
        config = arm_int8(is_per_channel=precision.per_channel, weight_qmin=-weight_max, weight_qmax=weight_max)
    activation = _observed(config.input_activation, calib, training)
    if precision.activation_bits == 16:
        activation = observers.resolved(activation)
    if training:
        config = dataclasses.replace(config, weight=_trained(config.weight))
    return dataclasses.replace(config, input_activation=activation, output_activation=activation)


def module_names(graph_module: torch.fx.GraphModule) -> dict[str, str]:
    """The modules of an exported network by name, as {name: what the quantizers call it}, in the order of their operators."""
    found: dict[str, str] = {}
    for node in graph_module.graph.nodes:
        for path in _paths(node):
            found.setdefault(_name(path), path)
    return found


def by_module(graph_module: torch.fx.GraphModule) -> dict[str, dict[str, str]]:
    """How each layer with weights of a program stores its numbers: {module: {"weight": ..., "activation": ...}}."""
    layers = {"linear", "conv1d", "conv2d"}
    found: dict[str, dict[str, str]] = {}
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or getattr(node.target, "_opname", "") not in layers or not (within := _paths(node)):
            continue
        found[_name(within[-1])] = {"weight": _stored(node.args[1]), "activation": _stored(node.args[0])}
    return found


def _stored(node: torch.fx.Node) -> str:
    """Type of a value; of what a dequantize node reads, its granularity and range as well."""
    for kind, granularity, at in (("dequantize_per_channel", "per channel", 4), ("dequantize_per_tensor", "per tensor", 3)):
        if kind in str(node.target):
            low, high, dtype = node.args[at : at + 3]
            granularity += ", dynamic" if ".tensor" in str(node.target) else ""
            return f"{str(dtype).removeprefix('torch.')} {granularity} [{low}, {high}]"
    return str(node.meta["val"].dtype).removeprefix("torch.")
