"""The front end in C for firmware: the sources beside this file, and headers with the constants and tables of a variant."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earshot.config import SAMPLE_RATE_HZ
from earshot.features import FrontEnd

SOURCES = ("front_end.h", "front_end.c", "check_front_end.c")
CONSTANTS, TABLES = "front_end_constants.h", "front_end_tables.h"
FILES = (*SOURCES, CONSTANTS, TABLES)
ROW = 8  # values in a line of a table


def write(folder: Path, front_end: FrontEnd, quantized: dict[str, Any]) -> None:
    """Write FILES to `folder`; `quantized` is how the network's input follows from floats, as graph.json has it."""
    for name in SOURCES:
        shutil.copyfile(Path(__file__).with_name(name), folder / name)
    (folder / CONSTANTS).write_text(constants(front_end, quantized))
    (folder / TABLES).write_text(tables(front_end))


def constants(front_end: FrontEnd, quantized: dict[str, Any]) -> str:
    config = front_end.config
    inverse = (1 / torch.tensor(quantized["scale"], dtype=torch.float64)).float().item()
    values = {
        "SAMPLE_RATE_HZ": SAMPLE_RATE_HZ,
        "N_FFT": config.n_fft,
        "HOP_LENGTH": config.hop_length,
        "WIN_LENGTH": config.win_length,
        "WIN_OFFSET": (config.n_fft - config.win_length) // 2,
        "N_MELS": config.n_mels,
        "LOG_FLOOR": _float(config.log_floor),
        "LOG_FLOOR_IS_ADDED": int(config.floor_by == "sum"),
        "WINDOW_FRAMES": quantized["shape"][1],
        "INPUT_SCALE": _float(quantized["scale"]),
        "INPUT_INVERSE_SCALE": _float(inverse),
        "INPUT_ZERO_POINT": _integer(quantized["zero_point"]),
        "INPUT_MIN": _integer(quantized["min"]),
        "INPUT_MAX": _integer(quantized["max"]),
    }
    lines = [f"#define EARSHOT_{name} {value}" for name, value in values.items()]
    return _header(CONSTANTS, ["#include <stdint.h>", "", *lines, "", f"typedef {quantized['dtype']}_t earshot_input_t;"])


def tables(front_end: FrontEnd) -> str:
    filters = [_filter(row) for row in front_end.log_mel.mel.mel_scale.fb.T.numpy()]
    turn = 2 * np.pi * np.arange(front_end.config.n_fft) / front_end.config.n_fft
    return _header(
        TABLES,
        [
            "#include <stdint.h>",
            _table("float", "window", front_end.log_mel.mel.spectrogram.window.tolist()),
            "/* cos and sin of 2 pi i / EARSHOT_N_FFT */",
            _table("float", "cosines", np.cos(turn)),
            _table("float", "sines", np.sin(turn)),
            "/* The filter of each mel bin: first bin of the spectrum, number of bins, and their weights, filter after filter. */",
            _table("uint16_t", "mel_first_bin", [first for first, _ in filters]),
            _table("uint16_t", "mel_bins", [len(weights) for _, weights in filters]),
            _table("float", "mel_weights", np.concatenate([weights for _, weights in filters])),
            "/* Of the logarithms, over the training speech. */",
            _table("float", "mean", front_end.mean.tolist()),
            _table("float", "std", front_end.std.tolist()),
        ],
    )


def _filter(row: np.ndarray) -> tuple[int, np.ndarray]:
    """The first bin and the weights of a filter, from its first to its last weight above 0."""
    above = row.nonzero()[0]
    return (int(above[0]), row[above[0] : above[-1] + 1]) if len(above) else (0, row[:0])


def _header(name: str, lines: Iterable[str]) -> str:
    guard = f"EARSHOT_{name.upper().replace('.', '_')}"
    return "\n".join([f"/* Made by earshot. */\n#ifndef {guard}\n#define {guard}\n", *lines, "\n#endif\n"])


def _table(of: str, name: str, values: Iterable[float]) -> str:
    texts = [_float(value) if of == "float" else str(value) for value in values]
    rows = [", ".join(texts[i : i + ROW]) for i in range(0, len(texts), ROW)]
    return f"static const {of} earshot_{name}[{len(texts)}] = {{\n    " + ",\n    ".join(rows) + "};\n"


def _float(value: float) -> str:
    """A float32 as C writes it, to the bit."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _integer(value: int) -> str:
    return f"({value})"
