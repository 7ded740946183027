"""The TOSA graph of a quantized program: made once, it serves every target with the same operator set."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executorch.backends.arm.tosa.compile_spec import TosaCompileSpec
from executorch.backends.arm.tosa.partitioner import TOSAPartitioner
from torch.export import ExportedProgram

from earshot.errors import LoweringError
from earshot.lower import edge, float_tail, module_names, pte
from earshot.lower.compiler_log import compiling

# At the level INFO the partitioner opens a file in the folder of intermediate files and writes to it ever after, when the folder is gone.
logging.getLogger(TOSAPartitioner.__module__).setLevel(logging.WARNING)


@dataclass
class TosaGraph:
    """What a target's compiler needs."""

    content: bytes  # the TOSA flatbuffer
    trace: str  # where its operators come from, see module_names
    template: dict[str, Any]  # the .pte around it, see pte.template
    boundary: dict[str, dict]  # "input", "output": how the graph's integers follow from floats
    operators_cpu: dict[str, int]  # those that are left to the CPU: the conversion from floats and to floats, and last layers in floats
    tail: float_tail.Tail | None  # these


def lower(exported: ExportedProgram, operator_set: str, log: Path) -> TosaGraph:
    """Lower a quantized program to TOSA, as ExecuTorch's Ethos-U backend does before it calls Vela.

    Args:
        operator_set: a TOSA specification, e.g. TOSA-1.0+INT+int16+int4+cf.
        log: what the compiler says is appended to it.

    Raises:
        LoweringError: a part of the program is not in the operator set, or the compiler fails otherwise.
    """
    spec = TosaCompileSpec(operator_set)
    spec.dump_debug_info(TosaCompileSpec.DebugMode.JSON)
    with compiling(log), tempfile.TemporaryDirectory() as folder:
        spec.dump_intermediate_artifacts_to(folder)
        lowered = edge.finish(edge.lower(exported, TOSAPartitioner(spec)), quantized=True)
        trace = (Path(folder) / module_names.TRACE).read_text() if lowered.boundary else ""
    if not lowered.boundary:
        left = ", ".join(f"{n} {kind}" for kind, n in lowered.operators_cpu.items())
        raise LoweringError(f"{operator_set} does not take the whole program; left to the CPU: {left}")
    template, tail = pte.template(lowered.program), float_tail.cut(exported)
    return TosaGraph(lowered.delegates[0], trace, template, lowered.boundary, lowered.operators_cpu, tail)
