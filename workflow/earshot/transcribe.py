"""The words of any audio file, by any program that the workflow made."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
import torchaudio

from earshot import recognizers, utterance_lines, windows
from earshot.config import SAMPLE_RATE_HZ, TranscribeStage, Window
from earshot.corpus.audio import LONGEST_S
from earshot.decoders import Decoder
from earshot.errors import ArtifactError, ConfigError, DataError, EarshotError
from earshot.model import checkpoint
from earshot.recognizers import Form

PROGRAMS = ("model.pte", "quantized.pt2", "model.safetensors")
MOST_SAMPLES = LONGEST_S * 48_000 * 2  # an hour in stereo, six of 16 kHz: memory is taken as a header says, before anything is decoded
LARGEST_FILTER = 20_000_000  # 80 MB; 441 to 160 for 44.1 kHz, at most 4451 to 3200 for a rate that devices have had
REMEDY = "give a model.pte, quantized.pt2 or model.safetensors that the workflow made"


def transcribe(cfg: TranscribeStage) -> bool:
    """Print the words of each file of `cfg.audio`, after its path and a tab where there are several; or a JSON object of each.

    Returns whether every file could be read; one that could not is told on stderr.

    Raises:
        ArtifactError: the program, the language model or the lexicon is absent or damaged.
    """
    files = list(paths(cfg.audio))
    form = open_program(cfg.program, cfg.window)
    decoder = Decoder(form.pieces, cfg.decode)
    complete = True
    for path in files:
        try:
            features = form.front_end(read_any(path))
        except EarshotError as error:
            note(str(error))
            complete = False
            continue
        found = form.recognize(features, decoder)
        if cfg.output == "json":
            print(json.dumps({"audio": path, "text": found[0].text, **utterance_lines.recognized(found)}, ensure_ascii=False), flush=True)
        else:
            print(f"{path}\t{found[0].text}" if len(files) > 1 else found[0].text, flush=True)
    return complete


def paths(audio: str | list[str]) -> Iterator[str]:
    """The paths of a text such as `a.flac,b.wav`, or of a list; a comma that is part of an existing file's name does not divide."""
    if not isinstance(audio, str):
        for entry in audio:
            yield str(entry)
        return
    parts = audio.split(",")
    while parts:
        lengths = range(len(parts), 0, -1)
        length = next((n for n in lengths if Path(",".join(parts[:n])).expanduser().is_file()), 1)
        path, parts = ",".join(parts[:length]), parts[length:]
        if path:
            yield path


def open_program(path: str, window: Window) -> Form:
    """A form that gives words for a program file, or for the directory that holds one.

    Raises:
        ConfigError: not a file that can be run.
        ArtifactError: absent or damaged.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = next((file / name for name in PROGRAMS if (file / name).exists()), file)
    if not file.exists():
        raise ArtifactError(f"{path}: no such file; {REMEDY}")
    if file.name not in PROGRAMS:
        raise ConfigError(f"program={path}: not a file that can be run; {REMEDY}")
    if file.name == "model.safetensors":
        return open_checkpoint(file.parent, window)
    if file.name == "quantized.pt2":
        program = recognizers.load_program(file.parent)
    else:
        if not recognizers.is_host(file.parent):
            note(f"{path}: compiled for an NPU; run here as the integer graph that it was compiled from")
        program = recognizers.load_variant(file.parent)
    window_s = program.window_frames * program.front_end.hop_length / SAMPLE_RATE_HZ
    return recognizers.form_of(file.name, program, min(window.overlap_s, window_s / 2), file, progress=True)


def open_checkpoint(model_dir: Path, window: Window) -> Form:
    """The float model: utterances up to the window in one piece, longer ones over windows, so that memory stays bounded."""
    recognizer = checkpoint.load(model_dir)
    cut, longest = recognizers.open_windowed(recognizer, window, model_dir, progress=True), windows.frames_of(window, recognizer.front_end)

    def logits(features: torch.Tensor) -> torch.Tensor:
        return cut.logits(features) if len(features) > longest else recognizers.whole(recognizer.model, features)

    return Form("float", logits, recognizer.front_end, recognizer.pieces, recognizer.model.grid)


def read_any(source: str | BinaryIO, name: str | None = None) -> np.ndarray:
    """Samples [n] at 16 kHz of an audio file of any rate and number of channels; what had to be converted is told on stderr.

    Args:
        source: a path, or the file itself, opened.
        name: of the file in messages; its path where not given.

    Raises:
        DataError: absent, empty, no audio, or more than memory should be taken for.
    """
    path = name or str(source)
    file = Path(source).expanduser() if isinstance(source, str) else source
    if isinstance(file, Path) and not file.is_file():
        raise DataError(f"{path}: no such file; check the path")
    try:
        with soundfile.SoundFile(file) as stream:
            if stream.frames * stream.channels > MOST_SAMPLES:
                said = f"its header says {stream.frames} samples of {stream.channels} channels, or leaves the number open"
                raise DataError(f"{path}: {said}, at most {MOST_SAMPLES} in all are read; cut it, or encode it again")
            samples, rate, promised = stream.read(dtype="float32", always_2d=True), stream.samplerate, stream.frames
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: cannot be read as audio ({error}); convert it to WAV or FLAC") from error
    if _filter_size(rate) > LARGEST_FILTER:
        raise DataError(f"{path}: a sample rate of {rate} Hz cannot be converted here; convert it to {SAMPLE_RATE_HZ} Hz")
    if not len(samples):
        raise DataError(f"{path}: holds no samples; record it again")
    if len(samples) < promised:
        raise DataError(f"{path}: truncated, {len(samples)} of {promised} samples can be decoded; copy it again")
    if not np.isfinite(samples).all():
        raise DataError(f"{path}: holds samples that are not numbers; record it again")
    channels = samples.shape[1]
    audio = torch.from_numpy(samples).mean(dim=1)
    if channels > 1:
        note(f"{path}: {channels} channels, averaged to one")
    if rate != SAMPLE_RATE_HZ:
        note(f"{path}: {rate} Hz, resampled to {SAMPLE_RATE_HZ} Hz")
        audio = torchaudio.functional.resample(audio, rate, SAMPLE_RATE_HZ)
    return audio.numpy()


def _filter_size(rate: int) -> int:
    """Coefficients of the filter that resamples from a rate; rates that have little in common with ours would take gigabytes."""
    common = math.gcd(rate, SAMPLE_RATE_HZ)
    return (rate // common) * (SAMPLE_RATE_HZ // common)


def note(message: str) -> None:
    print(f"earshot transcribe: {message}", file=sys.stderr)
