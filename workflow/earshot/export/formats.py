"""The formats: each is written to a folder, read back as those who take it would, and run on the golden signal."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from earshot.export.front_end import FromAudio, WindowFrontEnd
from earshot.model import checkpoint, portable
from earshot.quantize import program
from earshot.quantize.tracing import quiet

INPUT, OUTPUT, AUDIO = "features", "logits", "audio"  # of the network, and of what begins with audio
NETWORK_TOLERANCE = 1e-4  # largest difference of a logit
# Of a normalised feature, and of a logit that is computed of such. Whichever way a transform is computed in float32, the rounding of the
# loudest partials is noise in the quiet bins, and the logarithm shows it: features.py itself is up to 6e-4 away from double precision.
AUDIO_TOLERANCE = 1e-3


@dataclass
class Subject:
    """What is exported, and what it computes of the golden signal."""

    model_dir: Path
    tokenizer: Path | None
    recognizer: checkpoint.Recognizer
    frames: int
    audio: torch.Tensor  # [1, samples of the window]
    features: torch.Tensor  # [1, frames, n_mels], by features.py
    logits: torch.Tensor  # [1, T', V], by the model as it was trained

    @cached_property
    def network(self) -> nn.Module:
        return self.recognizer.model.for_window(self.frames)

    @cached_property
    def front_end(self) -> WindowFrontEnd:
        return WindowFrontEnd(self.recognizer.front_end, self.frames)

    @cached_property
    def exported(self) -> ExportedProgram:
        """The network, exported once for the formats that are made of it."""
        return program.export(self.network, self.recognizer.model, tuple(self.features.shape))


@dataclass(frozen=True)
class Format:
    """A format: its files, how they are written into a folder, and what they then compute of the golden signal."""

    files: tuple[str, ...]
    write: Callable[[Subject, Path], None]
    run: Callable[[Subject, Path], list[torch.Tensor]]
    wanted: str = "logits"  # what `run` gives one or more of: the name of a result of Subject
    tolerance: float = NETWORK_TOLERANCE

    def difference(self, subject: Subject, folder: Path) -> float:
        """The largest difference between what the files compute and what the model computes; not a number where they do not fit."""
        wanted = getattr(subject, self.wanted)
        with torch.inference_mode():
            found = self.run(subject, folder)
        fitting = all(one.shape == wanted.shape for one in found)
        return max((one - wanted).abs().max().item() for one in found) if fitting else float("nan")


def _write_safetensors(subject: Subject, folder: Path) -> None:
    portable.copy(subject.model_dir, folder)
    if subject.tokenizer:
        shutil.copyfile(subject.tokenizer, folder / "tokenizer.model")


def _run_safetensors(subject: Subject, folder: Path) -> list[torch.Tensor]:
    return [checkpoint.load(folder).model(subject.features)]


def _write_torchscript(subject: Subject, folder: Path) -> None:
    with quiet(), torch.no_grad():
        torch.jit.trace(subject.network, (subject.features,), check_trace=False).save(folder / "network.torchscript.pt")


def _run_torchscript(subject: Subject, folder: Path) -> list[torch.Tensor]:
    with quiet():
        return [torch.jit.load(folder / "network.torchscript.pt")(subject.features)]


def _write_torch_export(subject: Subject, folder: Path) -> None:
    program.save(subject.exported, folder / "network.pt2")


def _run_torch_export(subject: Subject, folder: Path) -> list[torch.Tensor]:
    return [_run_exported(folder / "network.pt2", subject.features)]


def _run_exported(path: Path, x: torch.Tensor) -> torch.Tensor:
    return program.read(path).module(check_guards=False)(x)


def _write_onnx(subject: Subject, folder: Path) -> None:
    with quiet():
        made = torch.onnx.export(subject.exported, (), dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    assert made is not None  # with dynamo=True there is a program
    made.save(folder / "network.onnx")


def _run_onnx(subject: Subject, folder: Path) -> list[torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run([OUTPUT], {INPUT: subject.features.numpy()})[0])]


def _write_front_end(subject: Subject, folder: Path) -> None:
    exported = _exported(subject.front_end, subject.audio)
    _write_pte(exported, folder / "front_end.pte")
    program.save(exported, folder / "front_end.pt2")


def _run_front_end(subject: Subject, folder: Path) -> list[torch.Tensor]:
    return [_run_exported(folder / "front_end.pt2", subject.audio), _run_pte(folder / "front_end.pte", subject.audio)]


def _write_from_audio(subject: Subject, folder: Path) -> None:
    _write_pte(_exported(FromAudio(subject.front_end, subject.network), subject.audio), folder / "from_audio.pte")


def _run_from_audio(subject: Subject, folder: Path) -> list[torch.Tensor]:
    return [_run_pte(folder / "from_audio.pte", subject.audio)]


def _exported(network: nn.Module, x: torch.Tensor) -> ExportedProgram:
    with quiet():
        return torch.export.export(network, (x,), strict=True)


def _write_pte(exported: ExportedProgram, path: Path) -> None:
    from earshot.lower import xnnpack  # with ExecuTorch, which the network's formats do without

    path.write_bytes(xnnpack.lower(exported).pte)


def _run_pte(path: Path, x: torch.Tensor) -> torch.Tensor:
    from executorch.runtime import Runtime, Verification

    method = Runtime.get().load_program(path, verification=Verification.InternalConsistency).load_method("forward")
    return method.execute([x.contiguous()])[0].clone()


FORMATS = {
    "safetensors": Format((*portable.FILES, "tokenizer.model"), _write_safetensors, _run_safetensors),
    "torchscript": Format(("network.torchscript.pt",), _write_torchscript, _run_torchscript),
    "torch_export": Format(("network.pt2",), _write_torch_export, _run_torch_export),
    "onnx": Format(("network.onnx",), _write_onnx, _run_onnx),
    "front_end": Format(("front_end.pt2", "front_end.pte"), _write_front_end, _run_front_end, "features", AUDIO_TOLERANCE),
    "from_audio": Format(("from_audio.pte",), _write_from_audio, _run_from_audio, tolerance=AUDIO_TOLERANCE),
}
