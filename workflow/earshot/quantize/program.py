"""Programs: a network exported for a window, quantized, saved, and run by PyTorch as the quantizer left it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.ao.quantization.fx._decomposed  # the operators of quantized programs
from torch import nn
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import load_pt2
from torch.fx.traceback import NodeSource

from earshot import left_context
from earshot.errors import ArtifactError
from earshot.features import FrontEnd
from earshot.files import atomic, damage, read_json, sha256
from earshot.model.subsampling import OutputGrid
from earshot.quantize import harmless
from earshot.quantize.tracing import brief_archives, lean_tracing, quiet
from earshot.tokenizer import read_pieces

if TYPE_CHECKING:
    from torchao.quantization.pt2e.quantizer import Quantizer

PROGRAM, REPORT, FRONT_END, PIECES = "quantized.pt2", "quantize.json", "front_end.json", "tokenizer.pieces"
EXPORT_TOLERANCE = 1e-4  # largest difference of a logit between the trained model and its exported program
ROUNDED_TOLERANCE = {torch.float16: 0.02, torch.bfloat16: 0.1}  # for floats of 16 bits, as a part of the largest logit
Shape = tuple[int, ...]
ADDRESS = re.compile(r" at 0x[0-9a-f]+|\d{9,}")  # of an object in memory, in a name that PyTorch makes
QUANTIZE_OPS = ("quantize_per_tensor", "dequantize_per_tensor")


class Rounded(nn.Module):
    """A network that computes in floats of another type; input and output keep theirs."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        return self.network(x_btf.to(self.dtype)).float()


def export(network: nn.Module, model: nn.Module, *shapes: Shape, dtype: torch.dtype = torch.float32) -> ExportedProgram:
    """The float program of a network for a window: x [1, window_frames, n_mels] to logits [1, T', V], computed in floats of type `dtype`;
    with two `shapes` of inputs, the second is that of a cache, and it gives one besides the logits.

    `network` is a form of the trained `model`: itself for the window, or rewritten for an NPU.

    Raises:
        ArtifactError: the exported program does not compute what the model computes.
    """
    if dtype is not torch.float32:
        network = Rounded(network, dtype)
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    with quiet(), lean_tracing(compiles=True):
        exported = torch.export.export(network, inputs, strict=False)
    with torch.no_grad():
        found, wanted = _results(exported, inputs), model.eval()(*inputs)
    wanted = (wanted,) if isinstance(wanted, torch.Tensor) else wanted
    error = torch.stack([(one - other).abs().max() for one, other in zip(found, wanted, strict=True)]).max().item()
    allowed = ROUNDED_TOLERANCE[dtype] * wanted[0].abs().max().item() if dtype in ROUNDED_TOLERANCE else EXPORT_TOLERANCE
    if not error <= allowed:
        raise ArtifactError(
            f"exported program: differs from the model by {error:.2g}, allowed is {allowed:.2g}; report this with the model, "
            "and set model.npu_form=false if it is of the NPU form, quant.float_type=float32 if it is of floats of 16 bits"
        )
    return exported


@torch.no_grad()
def update(exported: ExportedProgram, network: nn.Module) -> None:
    """Put the weights of `network` into its float program."""
    own = network.state_dict()
    for name, weight in exported.state_dict.items():
        weight.copy_(own[name])


def quantize(exported: ExportedProgram, quantizer: Quantizer, inputs: Iterable[tuple[torch.Tensor, ...]]) -> torch.fx.GraphModule:
    """The converted program: observers are placed, run over `inputs` of windows, and replaced by quantized nodes."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e  # which who runs a program does without

    from earshot.quantize.observing import observed

    prepared = observed(exported, quantizer, inputs)
    with quiet(), lean_tracing():
        converted = convert_pt2e(prepared)
    converted.recompile()
    return converted


def reexport(converted: torch.fx.GraphModule, *shapes: Shape) -> ExportedProgram:
    """A converted graph as a program that can be saved and lowered."""
    with quiet(), lean_tracing(compiles=True):  # a graph already: nothing of Python is left to analyse, as the strict export would
        return torch.export.export(converted, tuple(map(torch.zeros, shapes)), strict=False)


def _origin(source: NodeSource, graphs: dict[int, int]) -> NodeSource:
    """Where the provenance of a node begins: the only part that is asked for, of chains that take a quarter of a file.

    What names its graph and its function there are addresses in memory, others in each process: they give way to a number, noted in
    `graphs`, and to nothing.
    """
    while source.from_node:
        source = source.from_node[-1]
    if source.node_info is None:
        return source
    origin = copy.copy(source)
    origin.node_info, origin._dict = copy.copy(source.node_info), None  # the second is what it remembers of having been written
    origin.node_info.graph_id = graphs.setdefault(source.graph_id, len(graphs))
    origin.node_info.target = ADDRESS.sub("", source.target)
    return origin


def save(exported: ExportedProgram, path: str | Path) -> None:
    """Write a program to `path` (.pt2). What is read back computes the same, bit by bit (tests/unit/test_quantize.py).

    Which lines of which files made its nodes is left out: where this checkout lies is to be no part of what it makes.
    """
    graphs: dict[int, int] = {}
    modules: dict[str, str] = {}
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)
        if stack := node.meta.get("nn_module_stack"):  # its keys hold addresses too
            named = {ADDRESS.sub(lambda one: modules.setdefault(one[0], str(len(modules))), key): at for key, at in stack.items()}
            node.meta["nn_module_stack"] = named
        if "from_node" in node.meta:
            node.meta["from_node"] = [_origin(source, graphs) for source in node.meta["from_node"]]
    # PyTorch writes the name of a file that it opens itself into it, and the temporary one is another each time.
    with atomic(path) as temporary, open(temporary, "w+b") as stream, quiet(), brief_archives():
        torch.export.save(exported, stream)


def _results(exported: ExportedProgram, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    results = exported.module(check_guards=False)(*inputs)
    return (results,) if isinstance(results, torch.Tensor) else tuple(results)


def read(path: str | Path) -> ExportedProgram:
    """Read a torch.export archive; no code that is in it is run.

    Raises:
        ArtifactError: absent, damaged, something else, or it could run code.
    """
    path, remedy = Path(path), "delete it and run the step that makes it again"
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; run the quantize step, or correct the path")
    if reason := damage(path):
        raise ArtifactError(f"{path}: damaged or no torch.export program ({reason}); {remedy}")
    try:
        with quiet(), brief_archives():
            harmless.check(path)
            return load_pt2(path).exported_programs["model"]  # as torch.export.load, which would also take forms that may run code
    except ArtifactError:
        raise
    except Exception as error:  # whatever the archive and tensor readers find wrong with the bytes
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ArtifactError(f"{path}: damaged or no torch.export program ({reason}); {remedy}") from error


def read_made(program_dir: Path, report: dict[str, Any], n_mels: int, outputs: int) -> ExportedProgram:
    """The program of a program directory, checked against `report`, its quantize.json.

    Raises:
        ArtifactError: absent, damaged, or not the one that the report is of.
    """
    path = program_dir / PROGRAM
    if path.is_file() and sha256(path) != report["program_sha256"]:  # before anything of it is loaded
        raise ArtifactError(f"{path}: damaged, or not the one that {REPORT} is of; delete it and run the quantize step again")
    exported = read(path)
    cache = (1, *report["cache"]["shape"]) if report.get("cache") else None
    grid = OutputGrid(report["subsampling_stages"])
    check_fits(exported, path, report["window_frames"], n_mels, grid, outputs, report["quantize"], cache)
    return exported


def _shapes(exported: ExportedProgram, names: Iterable[str], path: str | Path, what: str) -> list[list[int]]:
    nodes = {node.name: node for node in exported.graph.nodes}
    values = [nodes[name].meta["val"] for name in names]
    if not values or not all(isinstance(value, torch.Tensor) and value.dim() == 3 and value.dtype == torch.float32 for value in values):
        found = ", ".join(f"{getattr(v, 'dtype', type(v).__name__)} {list(getattr(v, 'shape', []))}" for v in values)
        raise ArtifactError(
            f"{path}: {what} is {found or 'missing'}, expected float32 tensors of three dimensions; give a program of this workflow"
        )
    return [list(value.shape) for value in values]


def is_quantized(exported: ExportedProgram) -> bool:
    """Whether a program holds quantize nodes."""
    return any(kind in str(node.target) for node in exported.graph.nodes for kind in QUANTIZE_OPS)


def check_fits(
    exported: ExportedProgram,
    path: str | Path,
    window_frames: int,
    n_mels: int,
    grid: OutputGrid,
    outputs: int,
    quantized: bool,
    cache: Sequence[int] | None = None,
) -> None:
    """Refuse a program made for another window, front end, subsampling, tokenizer or scheme; `cache` is its shape where it has one.

    Raises:
        ArtifactError: it names what differs.
    """
    caches = [list(cache)] if cache else []
    found, wanted = _shapes(exported, exported.graph_signature.user_inputs, path, "input"), [[1, window_frames, n_mels], *caches]
    if found != wanted:
        raise ArtifactError(
            f"{path}: takes {_readable(found)}, but window and front end give {_readable(wanted)}; "
            "set window.seconds to what the program was made for"
        )
    found = _shapes(exported, exported.graph_signature.user_outputs, path, "output")
    wanted = [[1, grid.output_frames(window_frames), outputs], *caches]
    if found != wanted:
        asked = "window, subsampling and tokenizer.pieces ask for"
        raise ArtifactError(
            f"{path}: gives {_readable(found)}, but {asked} {_readable(wanted)}; give the model that the program was made of"
        )
    if is_quantized(exported) != quantized:
        kind = "quantized" if not quantized else "float"
        raise ArtifactError(f"{path}: a {kind} program, but the scheme asks for the other; choose another quant or another program")


def _readable(shapes: list[list[int]]) -> str:
    return " and ".join(map(str, shapes))


class _Saved:
    """A saved program, run by PyTorch."""

    def __init__(self, program_dir: Path, report: dict[str, Any]) -> None:
        self.front_end, self.pieces = FrontEnd.load(program_dir / FRONT_END), read_pieces(program_dir / PIECES)
        self.window_frames, self.grid = int(report["window_frames"]), OutputGrid(report["subsampling_stages"])
        exported = read_made(program_dir, report, self.front_end.n_mels, len(self.pieces))
        self._module = exported.module(check_guards=False)


class Program(_Saved):
    """A saved program of one window: features [window_frames, n_mels] to logits [T', V]."""

    @torch.no_grad()
    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return self._module(features[None])[0]


class ProgramWithCache(_Saved):
    """A saved program that is given a cache of left context: features and cache [rows, D] to logits and the next cache."""

    def __init__(self, program_dir: Path, report: dict[str, Any]) -> None:
        super().__init__(program_dir, report)
        self.layout, self.first_cache = left_context.layout(report), left_context.read_first_cache(program_dir, report)

    @torch.no_grad()
    def __call__(self, features: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, cache = self._module(features[None], cache[None])
        return logits[0], cache[0]


def load(program_dir: str | Path) -> Program | ProgramWithCache:
    """Read a program directory.

    Raises:
        ArtifactError: a file is absent or damaged, or they do not fit together.
    """
    program_dir = Path(program_dir)
    report = read_json(program_dir / REPORT)
    return (ProgramWithCache if report.get("cache") else Program)(program_dir, report)
