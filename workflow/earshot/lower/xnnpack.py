"""The host: a program lowered to XNNPACK's kernels, run by the ExecuTorch runtime in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import executorch.kernels.quantized  # noqa: F401 (registers the kernels of quantize and dequantize)
import torch
from executorch.backends.xnnpack._passes.convert_to_sdpa import ConvertToSDPAPass
from executorch.backends.xnnpack._passes.convert_to_upsample_bilinear2d import ConvertToUpsampleBilinear2d
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime, Verification
from torch.export import ExportedProgram
from torch.fx.passes.infra.pass_base import PassResult

from earshot.errors import ArtifactError
from earshot.features import FrontEnd
from earshot.files import read_json, sha256
from earshot.lower import edge
from earshot.lower.edge import Lowered
from earshot.model.subsampling import OutputGrid
from earshot.quantize.replacing import replaced
from earshot.tokenizer import read_pieces

PTE, REPORT, PROGRAM_REPORT, FRONT_END, PIECES = "model.pte", "lower.json", "quantize.json", "front_end.json", "tokenizer.pieces"


def lower(exported: ExportedProgram) -> Lowered:
    """Lower a program, quantized or not, to XNNPACK; what XNNPACK does not take is left to ExecuTorch's portable kernels."""
    with _needed_patterns(exported):
        return edge.finish(edge.lower(exported, XnnpackPartitioner()), quantized=False)


@contextlib.contextmanager
def _needed_patterns(exported: ExportedProgram) -> Iterator[None]:
    """Without the passes that look for an operator's parts where the program has no such operator: they lower examples of it first, in a
    fifth of the time that the demo's model takes.
    """
    operators = " ".join({str(node.target) for node in exported.graph.nodes})
    passes = {"upsample_bilinear2d": ConvertToUpsampleBilinear2d, "scaled_dot_product_attention": ConvertToSDPAPass}
    with contextlib.ExitStack() as stack:
        for operator, looks_for in passes.items():
            if operator not in operators:
                stack.enter_context(replaced(looks_for, "call", lambda self, module: PassResult(module, False)))
        yield


def set_threads(threads: int) -> None:
    """Threads of the runtime, for the whole process; programs that are loaded now must be loaded again after it."""
    portable_lib._unsafe_reset_threadpool(threads)


class HostProgram:
    """The .pte of a host variant: features [window_frames, n_mels] to logits [T', V]."""

    def __init__(self, variant_dir: str | Path) -> None:
        """Read a variant directory.

        Raises:
            ArtifactError: a file is absent or damaged, or the program does not fit its front end or pieces.
        """
        variant_dir = Path(variant_dir)
        self.front_end, self.pieces = FrontEnd.load(variant_dir / FRONT_END), read_pieces(variant_dir / PIECES)
        self.grid = OutputGrid(read_json(variant_dir / PROGRAM_REPORT)["subsampling_stages"])
        path = variant_dir / PTE
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; run the lower step")
        if sha256(path) != read_json(variant_dir / REPORT)["pte_sha256"]:
            raise ArtifactError(f"{path}: damaged, or not the one that {REPORT} is of; delete it and run the lower step again")
        try:
            self._program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
            self._method = self._program.load_method("forward")
        except RuntimeError as error:
            raise ArtifactError(f"{path}: damaged or no ExecuTorch program ({error}); delete it and run the lower step again") from error
        (_, self.window_frames, n_mels), (_, _, outputs) = (
            self._method.metadata.input_tensor_meta(0).sizes(),
            self._method.metadata.output_tensor_meta(0).sizes(),
        )
        if (n_mels, outputs) != (self.front_end.n_mels, len(self.pieces)):
            raise ArtifactError(
                f"{path}: takes {n_mels} mel bins and gives {outputs} outputs, but {FRONT_END} and {PIECES} have "
                f"{self.front_end.n_mels} and {len(self.pieces)}; take all files from one variant"
            )

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        (logits,) = self._method.execute([features[None].contiguous()])
        return logits[0].clone()  # the runtime's memory is overwritten by the next call
