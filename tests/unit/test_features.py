"""The front end: what a port to a device reads from front_end.json is enough to compute the same features."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from earshot.config import Features
from earshot.errors import ArtifactError, ConfigError
from earshot.features import FrontEnd, LogMel


def ported(constants: dict, audio: np.ndarray) -> np.ndarray:
    """Features by the text of front_end.json alone, in double precision: what firmware would do."""
    c = constants["config"]
    offset = (c["n_fft"] - c["win_length"]) // 2
    window = np.zeros(c["n_fft"])
    window[offset : offset + c["win_length"]] = constants["window"]
    rows = []
    for start in range(0, len(audio) - c["n_fft"] + 1, c["hop_length"]):
        power = np.abs(np.fft.rfft(audio[start : start + c["n_fft"]].astype(np.float64) * window)) ** 2
        mel = [power[f["first_bin"] : f["first_bin"] + len(f["weights"])] @ np.array(f["weights"]) for f in constants["mel_filters"]]
        rows.append((np.log(np.maximum(mel, c["log_floor"])) - constants["mean"]) / constants["std"])
    return np.array(rows)


@pytest.fixture
def audio() -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(16_000) / 16_000
    return (0.1 * np.sin(2 * np.pi * 440 * t) * (t > 0.3) + 0.01 * rng.standard_normal(16_000)).astype(np.float32)


def test_front_end_json_is_all_that_a_port_needs(front_end, audio, tmp_path):
    front_end.save(tmp_path / "front_end.json")
    expected = ported(json.loads((tmp_path / "front_end.json").read_text()), audio)
    np.testing.assert_allclose(front_end(audio).numpy(), expected, atol=2e-4)


def test_it_comes_back_from_its_file(front_end, audio, tmp_path):
    front_end.save(tmp_path / "front_end.json")
    torch.testing.assert_close(FrontEnd.load(tmp_path / "front_end.json")(audio), front_end(audio))


@pytest.mark.parametrize("samples", [512, 513, 671, 672, 16_000])
def test_frames_and_samples_agree(front_end, samples):
    frames = front_end.frames(samples)
    assert len(front_end(np.zeros(samples, np.float32))) == frames
    assert front_end.samples(frames) <= samples < front_end.samples(frames + 1)


def test_less_than_a_frame_is_no_frame(front_end):
    assert front_end(np.zeros(511, np.float32)).shape == (0, 80)
    assert front_end.frames(511) == 0


def test_silence_is_what_zeros_give(front_end):
    torch.testing.assert_close(front_end(np.zeros(1000, np.float32))[0], front_end.silence())


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "front_end.json").write_text('{"schema_version": 1}')
    with pytest.raises(ArtifactError, match=r"front_end\.json"):
        FrontEnd.load(tmp_path / "front_end.json")


def test_a_window_longer_than_the_fft_is_refused():
    with pytest.raises(ConfigError, match="win_length=600"):
        LogMel(Features(win_length=600))
