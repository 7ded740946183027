"""Ethos-U: a TOSA graph through Vela to a .pte that the NPU runs whole."""

from __future__ import annotations

import configparser
import math
from pathlib import Path
from typing import Any

from ethosu import vela
from ethosu.vela.architecture_features import Accelerator
from executorch.backends.arm.arm_vela import vela_compile
from executorch.backends.arm.ethosu import EthosUBackend, EthosUCompileSpec

from earshot.config import Target
from earshot.errors import ConfigError
from earshot.lower import apart, pte

FLAGS = ("--verbose-performance",)  # asks for the table of layers too
NOTES = ("--enable-debug-db",)  # asks for what each layer was made from; changes nothing that is compiled, hence no part of the .pte
VELA_INI = Path(vela.__file__).resolve().parents[1] / "config_files" / "Arm" / "vela.ini"


def check(target: Target) -> None:
    """Refuse a target that Vela does not know, before anything is compiled.

    Raises:
        ConfigError: it names the choices.
    """
    known = configparser.ConfigParser()
    known.read(VELA_INI)

    def sections(kind: str) -> list[str]:
        return [name.removeprefix(f"{kind}.") for name in known.sections() if name.startswith(f"{kind}.")]

    product = "_".join((target.accelerator or "").split("-")[:2]).lower()  # ethos_u85
    choices = {
        "accelerator": Accelerator.member_list(),
        "system_config": [name for name in sections("System_Config") if name.lower().startswith(product)],
        "memory_mode": sections("Memory_Mode"),
    }
    for key, options in choices.items():
        if getattr(target, key) not in options:
            raise ConfigError(f"target.{key}={getattr(target, key)} of target {target.name}: choose one of {', '.join(options)}")
    family = "u85" if product == "ethos_u85" else "u55"
    if target.family != family:
        raise ConfigError(f"target.family={target.family} of target {target.name}: {target.accelerator} is of family {family}")


def compile_spec(target: Target) -> EthosUCompileSpec:
    """How ExecuTorch says which target Vela is to compile for, and with which options."""
    flags = [*FLAGS, *([f"--arena-cache-size={target.sram_kib * 1024}"] if target.sram_kib is not None else [])]
    return EthosUCompileSpec(target.accelerator, system_config=target.system_config, memory_mode=target.memory_mode, extra_flags=flags)


def operator_set(target: Target) -> str:
    """The TOSA specification that the target's graph must keep to."""
    return str(compile_spec(target).tosa_spec)


def over_budget(target: Target, sram_kib: float) -> str | None:
    """Why a compiled program that uses `sram_kib` is too large for its target; None where it is not."""
    if target.sram_kib is None or sram_kib <= target.sram_kib:
        return None
    mode = target.memory_mode or ""
    spill = "" if mode.startswith("Dedicated_Sram") else ", or a system with DRAM and target.memory_mode=Dedicated_Sram, which needs less"
    return (
        f"needs {sram_kib:g} KiB of SRAM, target.sram_kib={target.sram_kib} are allowed; raise the budget to {math.ceil(sram_kib)}, "
        f"choose a shorter window or a model with fewer or narrower channels{spill}"
    )


def compile_graph(tosa: bytes, template: dict[str, Any], target: Target, folder: Path, log: Path) -> bytes:
    """The .pte of a TOSA graph for an Ethos-U; Vela's tables lie in `folder` afterwards.

    Args:
        template: the .pte around the graph, see pte.template.
        log: what Vela says is appended to it.

    Raises:
        ConfigError: Vela cannot write to `folder`.
        LoweringError: Vela cannot take the graph.
    """
    if " " in str(folder):
        raise ConfigError(f"{folder}: Vela cannot write to a path with a space; set TMPDIR to a folder without one")
    spec = compile_spec(target)
    content = apart.compiled(log, vela_compile, tosa, [*spec.compiler_flags, *NOTES], False, str(folder))
    return pte.complete(template, EthosUBackend.__name__, spec._to_list(), content)
