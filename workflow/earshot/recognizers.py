"""Everything that can be asked for the words of an utterance: a checkpoint, a quantized program, an integer graph, a host program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from earshot import windows
from earshot.config import SAMPLE_RATE_HZ, Window
from earshot.decoders import Decoder, Hypothesis
from earshot.errors import ArtifactError
from earshot.features import FrontEnd
from earshot.files import read_json
from earshot.model import Conformer, checkpoint
from earshot.model.streaming import Streaming, StreamingConformer, silence_cache
from earshot.model.subsampling import OutputGrid

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from earshot.lower.judge import Judged
    from earshot.lower.tosa import IntegerGraph


class Program(Protocol):
    """What runs one window: features [window_frames, n_mels] to logits [T', V]."""

    window_frames: int
    front_end: FrontEnd
    pieces: list[str]
    grid: OutputGrid

    def __call__(self, features: torch.Tensor) -> torch.Tensor: ...


class ProgramWithCache(Protocol):
    """What runs one window after the other: features and a cache [rows, D] to logits and the cache of the next window."""

    layout: windows.Layout
    first_cache: torch.Tensor
    window_frames: int
    front_end: FrontEnd
    pieces: list[str]
    grid: OutputGrid

    def __call__(self, features: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...


@dataclass
class Form:
    """One form of a model: features [T, n_mels] of an utterance of any length to its logits [T', V]."""

    name: str  # the key of its accuracy in metrics.json
    logits: Callable[[torch.Tensor], torch.Tensor]
    front_end: FrontEnd
    pieces: list[str]
    grid: OutputGrid

    def recognize(self, features: torch.Tensor, decoder: Decoder) -> list[Hypothesis]:
        """The best texts of an utterance, the best first; `decoder` is one for `pieces`."""
        return decoder(self.logits(features), self.grid.factor * self.front_end.hop_length / SAMPLE_RATE_HZ)


class FloatProgram:
    """A checkpoint that is run on windows of a fixed length, as an exported program is."""

    def __init__(self, recognizer: checkpoint.Recognizer, window_frames: int) -> None:
        self.window_frames, self.front_end, self.pieces = window_frames, recognizer.front_end, recognizer.pieces
        self._model, self.grid = recognizer.model, recognizer.model.grid

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return whole(self._model, features)


class FloatProgramWithCache:
    """A checkpoint that is run on windows with a cache of left context, as an exported program is."""

    def __init__(self, recognizer: checkpoint.Recognizer, layout: windows.Layout) -> None:
        self.layout, self.window_frames, self.grid = layout, layout.frames, layout.grid
        self.front_end, self.pieces = recognizer.front_end, recognizer.pieces
        self._form = StreamingConformer(recognizer.model, Streaming(layout.outputs, layout.hop, layout.left))
        self.first_cache = silence_cache(self._form, recognizer.front_end.silence(), layout.frames)[0]

    @torch.inference_mode()
    def __call__(self, features: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, cache = self._form(features[None], cache[None])
        return logits[0], cache[0]


@torch.inference_mode()
def whole(model: Conformer, features: torch.Tensor) -> torch.Tensor:
    """Logits of an utterance in one piece; [0, 1] where it is too short for a single output."""
    return model(features[None])[0] if model.output_lengths(len(features)) > 0 else torch.zeros(0, 1)


def windowed(name: str, program: Program, overlap_s: float, source: str | Path, progress: bool = False) -> Form:
    """A program of one window as a form for utterances of any length; `progress` shows a bar over the windows of a long one.

    Raises (when it is run):
        ArtifactError: the program's logits do not fit its window or its pieces.
    """
    layout, silence = windows.layout(program.window_frames, overlap_s, program.front_end, program.grid), program.front_end.silence()

    def checked(features: torch.Tensor) -> torch.Tensor:
        return check_logits(program(features), layout, program.pieces, source)

    def logits(features: torch.Tensor) -> torch.Tensor:
        return windows.run(checked, features, layout, silence, progress)

    return Form(name, logits, program.front_end, program.pieces, program.grid)


def with_cache(name: str, program: ProgramWithCache, source: str | Path, progress: bool = False) -> Form:
    """A program of one window after the other as a form for utterances of any length, as `windowed` has it.

    Raises (when it is run):
        ArtifactError: as there.
    """
    layout, silence = program.layout, program.front_end.silence()

    def checked(features: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, cache = program(features, cache)
        return check_logits(logits, layout, program.pieces, source), cache

    def logits(features: torch.Tensor) -> torch.Tensor:
        return windows.run_with_cache(checked, features, layout, silence, program.first_cache, progress)

    return Form(name, logits, program.front_end, program.pieces, program.grid)


def form_of(name: str, program: Program | ProgramWithCache, overlap_s: float, source: str | Path, progress: bool = False) -> Form:
    """A program of either kind as a form; the windows of one with a cache overlap as it was made for."""
    if has_cache(program):
        return with_cache(name, program, source, progress)
    return windowed(name, program, overlap_s, source, progress)


def has_cache(program: Program | ProgramWithCache) -> TypeIs[ProgramWithCache]:
    return hasattr(program, "first_cache")


def check_logits(logits: torch.Tensor, layout: windows.Layout, pieces: list[str], source: str | Path) -> torch.Tensor:
    """The logits of a window, [outputs, pieces].

    Raises:
        ArtifactError: they are not.
    """
    found, expected = tuple(logits.shape), (layout.outputs, len(pieces))
    if found != expected:
        wanted = "its window and tokenizer.pieces ask for"
        raise ArtifactError(f"{source}: gives logits {found}, but {wanted} {expected}; run the step that made it again")
    return logits


def open_windowed(recognizer: checkpoint.Recognizer, window: Window, source: str | Path, progress: bool = False) -> Form:
    """The float model over windows, with a cache where the window has left context."""
    return form_of("float", float_program(recognizer, window), window.overlap_s, source, progress)


def float_program(recognizer: checkpoint.Recognizer, window: Window) -> Program | ProgramWithCache:
    """The float model as a program of windows."""
    frames, front_end, grid = windows.frames_of(window, recognizer.front_end), recognizer.front_end, recognizer.model.grid
    if not window.left_context_s:
        return FloatProgram(recognizer, frames)
    return FloatProgramWithCache(recognizer, windows.layout(frames, window.overlap_s, front_end, grid, window.left_context_s))


def open_model(model_dir: str | Path, window: Window) -> list[Form]:
    """The float model over windows, and over whole utterances."""
    recognizer = checkpoint.load(model_dir)
    model = recognizer.model
    full = Form("float_full", lambda features: whole(model, features), recognizer.front_end, recognizer.pieces, model.grid)
    return [open_windowed(recognizer, window, model_dir), full]


def load_program(program_dir: str | Path) -> Program | ProgramWithCache:
    """The quantized program, run by PyTorch."""
    from earshot.quantize import program

    return program.load(program_dir)


def load_graph(program_dir: str | Path) -> IntegerGraph | None:
    """The integer graph of a program; None where it has none, being for the host or refused by the compiler.

    Raises:
        ArtifactError: it is damaged, or of an earlier program.
    """
    report = Path(program_dir) / "graph.json"
    if not report.exists() or read_json(report)["status"] != "ok":
        return None
    if read_json(report)["program_sha256"] != read_json(report.with_name("quantize.json"))["program_sha256"]:
        raise ArtifactError(f"{report}: made of an earlier quantized.pt2; run the tosa step again")
    from earshot.lower.tosa_with_cache import open_graph

    return open_graph(program_dir)


def judged_graph(program_dir: str | Path) -> Judged:
    """The integer graph of a program, which has one, with TOSA's reference model beside it."""
    from earshot.lower.judge import Judged

    graph = load_graph(program_dir)
    assert graph is not None
    return Judged(graph)


def is_host(variant_dir: str | Path) -> bool:
    """Whether a variant runs in the ExecuTorch runtime on this machine; the others are for an NPU and run here as integer graphs."""
    return "npu" not in read_json(Path(variant_dir) / "lower.json")


def load_variant(variant_dir: str | Path) -> Program | ProgramWithCache:
    """The program of a variant that this machine can run: the host's .pte, or the integer graph that was compiled for the NPU."""
    if is_host(variant_dir):
        from earshot.lower.xnnpack import HostProgram

        return HostProgram(variant_dir)
    from earshot.lower.tosa_with_cache import open_graph

    return open_graph(variant_dir)
