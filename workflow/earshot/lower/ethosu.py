"""Ethos-U: a quantized program through TOSA and Vela to a .pte that the NPU runs whole."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

from ethosu import vela
from ethosu.vela.architecture_features import Accelerator
from executorch.backends.arm.ethosu import EthosUCompileSpec, EthosUPartitioner
from torch.export import ExportedProgram

from earshot.config import Target
from earshot.errors import ConfigError, LoweringError
from earshot.lower import edge
from earshot.lower.descriptors import output_to
from earshot.lower.edge import Lowered

FLAGS = ("--verbose-performance",)  # asks for the table of layers too
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


def lower(exported: ExportedProgram, target: Target, folder: Path, log: Path) -> Lowered:
    """Compile a quantized program for an Ethos-U; the TOSA graph and Vela's tables lie in `folder` afterwards.

    Raises:
        ConfigError: the compiler cannot write to `folder`.
        LoweringError: the compiler cannot take the program.
    """
    if " " in str(folder):
        raise ConfigError(f"{folder}: Vela cannot write to a path with a space; set TMPDIR to a folder without one")
    spec = EthosUCompileSpec(
        target.accelerator, system_config=target.system_config, memory_mode=target.memory_mode, extra_flags=list(FLAGS)
    )
    spec.dump_intermediate_artifacts_to(str(folder))
    with output_to(log):
        try:
            lowered = edge.finish(edge.lower(exported, EthosUPartitioner(spec)), quantized=True)
        except (Exception, SystemExit) as error:  # whatever the compiler ends with, the reason is for the report
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failure = error
        else:
            failure = None
    if failure is not None:
        raise LoweringError(reason(log)) from failure
    return lowered


def reason(log: Path, lines: int = 3) -> str:
    """The last lines of a compiler's log that say something, in one line."""
    text = log.read_text(errors="replace").splitlines()
    useful = [line.strip() for line in text if line.strip() and not line.lstrip().startswith(("File ", "Traceback", "^"))]
    return " | ".join(useful[-lines:])[:600] or "the compiler ended without a message"
