"""The front end in C, compiled by gcc: it computes what features.py computes of the same 16-bit samples, whatever the configuration."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import torch
from tiny_recognizer import noise

from earshot.config import Features
from earshot.features import FrontEnd
from earshot.lower import device
from earshot.lower.tosa import to_integers

GCC = ("gcc", "-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here to compile the front end with")

ENDS = {
    "int8": {"dtype": "int8", "scale": 0.0325, "zero_point": -12, "min": -128, "max": 127},
    "uint8": {"dtype": "uint8", "scale": 0.0421, "zero_point": 130, "min": 0, "max": 255},
    "int16": {"dtype": "int16", "scale": 1.3e-4, "zero_point": 0, "min": -32767, "max": 32767},
}


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "int8"),
        ({"win_length": 512, "floor_by": "sum"}, "uint8"),  # that of Arm's example
        ({"win_length": 100, "n_fft": 300, "n_mels": 128, "f_min_hz": 100.0}, "int16"),  # no power of two; filters without a bin
    ],
)
def test_it_computes_the_features_and_integers_of_16_bit_samples(tmp_path, changes, end):
    config = Features(**changes)
    made = FrontEnd(config, [-6.0 - 0.01 * i for i in range(config.n_mels)], [3.0 + 0.01 * i for i in range(config.n_mels)])
    audio = np.round(noise(1.0, 8) * 32768).astype("<i2")
    features = torch.cat([made(audio.astype(np.float32) / 32768), made.silence()[None]])  # and a frame of padding
    described = {**ENDS[end], "shape": [1, *features.shape]}
    device.write(tmp_path, made, described)
    (tmp_path / "audio.bin").write_bytes(audio.tobytes())
    (tmp_path / "features.bin").write_bytes(features.numpy().astype("<f4").tobytes())
    (tmp_path / "input.bin").write_bytes(to_integers(features, described).tobytes())
    subprocess.run([*GCC, "check_front_end.c", "front_end.c", "-lm", "-o", "check"], cwd=tmp_path, check=True)
    files = ("audio.bin", "features.bin") if end == "int16" else ("audio.bin", "features.bin", "input.bin")  # a step of int16: rounding
    done = subprocess.run(["./check", *files], cwd=tmp_path, env={"ASAN_OPTIONS": "detect_leaks=0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"features: {features.numel()} values" in done.stdout
