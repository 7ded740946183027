"""Quantize a trained model for a family of targets: model directory to program directory."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram
from tqdm import tqdm

from earshot import left_context, windows
from earshot.config import SAMPLE_RATE_HZ, QuantizeStage, Window, check_left_context, check_qat
from earshot.errors import ArtifactError, ConfigError
from earshot.features import FrontEnd
from earshot.files import sha256, write_json
from earshot.model import checkpoint
from earshot.model.npu import to_npu
from earshot.model.streaming import Streaming, StreamingConformer, silence_cache
from earshot.quantize import calibrate, program, qat_program, schemes, weights
from earshot.stages import stage

SHORTEST_WINDOW_S = 0.5  # no word is shorter together with the frames that the network looks at around it


def window_frames(window: Window, front_end: FrontEnd) -> int:
    """Input frames of the program.

    Raises:
        ConfigError: no speech fits into the window.
    """
    frames = windows.frames_of(window, front_end)
    if window.seconds < SHORTEST_WINDOW_S:
        raise ConfigError(f"window.seconds={window.seconds:g}: too short for any speech; give at least {SHORTEST_WINDOW_S:g}")
    return frames


def from_published(published: Path, cfg: QuantizeStage, recognizer: checkpoint.Recognizer, frames: int) -> ExportedProgram:
    """The program of `quant.from_program`, checked against the model that it is to stand for."""
    for name in (program.FRONT_END, program.PIECES):
        beside, own = published.parent / name, Path(cfg.model_dir) / name
        if beside.is_file() and sha256(beside) != sha256(own):
            raise ArtifactError(f"{beside}: differs from {own}; give the model directory that quant.from_program={published} was made of")
    exported = program.read(published)
    n_mels, grid, outputs = recognizer.front_end.n_mels, recognizer.model.grid, len(recognizer.pieces)
    program.check_fits(exported, published, frames, n_mels, grid, outputs, cfg.quant.quantize)
    return exported


def network(cfg: QuantizeStage, recognizer: checkpoint.Recognizer, frames: int, streaming: Streaming | None) -> nn.Module:
    """The form of the model that is exported: rewritten for the NPU, or as it was trained."""
    if cfg.form.npu_form and cfg.quant.takes_npu_form(cfg.family):
        n_mels = recognizer.front_end.n_mels
        cpu_output = not all(part.quantize for part in cfg.quant.parts)  # what an NPU leaves to the CPU are the last layers
        return to_npu(recognizer.model, frames, n_mels, cfg.form.npu_sram_kib, cfg.form.npu_chunks, streaming, cpu_output)
    return recognizer.model.for_window(frames)


class LeftContext:
    """The cache of a program: the float model that has one too, how windows follow each other, and what the first window is given."""

    def __init__(self, cfg: QuantizeStage, recognizer: checkpoint.Recognizer, frames: int) -> None:
        front_end, model = recognizer.front_end, recognizer.model
        self.layout = windows.layout(frames, cfg.window.overlap_s, front_end, model.grid, cfg.window.left_context_s)
        self.form = StreamingConformer(model, Streaming(self.layout.outputs, self.layout.hop, self.layout.left))
        self.first_cache = silence_cache(self.form, front_end.silence(), frames)

    def report(self) -> dict:
        """What quantize.json says of it, in output frames but for its shape [rows, D]."""
        return {"shape": list(self.first_cache.shape[1:]), "left": self.layout.left, "look_ahead": self.layout.overlap}


@stage("quantize")
def main(cfg: QuantizeStage) -> None:
    started = time.monotonic()
    schemes.check(cfg.quant, cfg.family)
    recognizer = checkpoint.load(cfg.model_dir)
    check_left_context(cfg.window, cfg.form, cfg.quant, cfg.family)
    check_qat(cfg.window, cfg.form, cfg.quant, cfg.family)
    frames, n_mels = window_frames(cfg.window, recognizer.front_end), recognizer.front_end.n_mels
    left = LeftContext(cfg, recognizer, frames) if cfg.window.left_context_s else None
    shapes = [(1, frames, n_mels), *([tuple(left.first_cache.shape)] if left else [])]
    if not cfg.quant.qat:  # which takes minutes; else a program is the same, bit by bit, however many cores a machine has
        torch.set_num_threads(1)
    calibration = training = None
    if cfg.quant.from_program:
        exported = from_published(Path(cfg.quant.from_program), cfg, recognizer, frames)
        modules = schemes.by_module(exported.graph_module)
    else:
        chosen = calibrate.choose(cfg.corpus_dir, cfg.calib) if cfg.quant.calibrated else []
        written = network(cfg, recognizer, frames, left.form.streaming if left else None)
        float_type = getattr(torch, cfg.quant.float_type)
        exported = program.export(written, left.form if left else recognizer.model, *shapes, dtype=float_type)
        modules = schemes.by_module(exported.graph_module)
        if cfg.quant.quantize:
            bar = tqdm(chosen, desc="calibration speech", unit="utterance", disable=None)
            inputs = list(
                calibrate.inputs_with_cache(bar, recognizer.front_end, left.layout, left.form, left.first_cache)
                if left
                else calibrate.inputs(bar, recognizer.front_end, frames)
            )
            if chosen:
                weights.settle(written, cfg.quant, cfg.calib, inputs)
                program.update(exported, written)
            else:
                inputs = [tuple(map(torch.zeros, shapes))]  # what is observed are the weights, and only while the network runs
            if cfg.quant.qat:
                converted, training = qat_program.trained(cfg, recognizer, written, exported, inputs)
            else:
                quantizer = schemes.quantizer(cfg.quant, cfg.calib, cfg.family, exported.graph_module)
                converted = program.quantize(exported, quantizer, tqdm(inputs, desc="calibration", unit="window", disable=None))
            modules = schemes.by_module(converted)
            exported = program.reexport(converted, *shapes)
        if chosen:
            calibration = {
                **dataclasses.asdict(cfg.calib),
                "speech_s": round(sum(utterance.duration_s for utterance in chosen), 1),
                "ids": [utterance.id for utterance in chosen],
            }
    out = Path(cfg.out)
    (out / program.REPORT).unlink(missing_ok=True)  # a program without its report is not taken for a finished one
    program.save(exported, out / program.PROGRAM)
    if left:
        left_context.write_first_cache(out, left.first_cache[0])
    for name in (program.FRONT_END, program.PIECES):
        shutil.copyfile(Path(cfg.model_dir) / name, out / name)
    write_json(
        out / program.REPORT,
        {
            "scheme": cfg.quant.scheme,
            "quantize": cfg.quant.quantize,
            "family": cfg.family,
            "npu_form": cfg.form.npu_form and cfg.quant.takes_npu_form(cfg.family),
            "from_program": cfg.quant.from_program,
            "window_s": cfg.window.seconds,
            "window_frames": frames,
            "cache": left.report() if left else None,
            "window_samples": frames * recognizer.front_end.hop_length,
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "n_mels": n_mels,
            "subsampling_stages": recognizer.model.grid.stages,
            "outputs": len(recognizer.pieces),
            "model_sha256": checkpoint.model_digest(cfg.model_dir),
            "program_sha256": sha256(out / program.PROGRAM),
            "calibration": calibration,
            "training": training,
            "modules": modules,
            "seconds": round(time.monotonic() - started, 1),
        },
    )


if __name__ == "__main__":
    main()
