"""The transcribe command: any audio a person has, several files, bad files, and paths with any characters."""

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tiny_recognizer import noise, write_model

from earshot import config
from earshot.stages import transcribe as stage
from earshot.stages import verbatim
from earshot.transcribe import paths, read_any


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny") / "model, a=b (ü)")


@pytest.fixture
def audio(tmp_path):
    soundfile.write(tmp_path / "a.flac", noise(1.5, 0), 16_000)
    soundfile.write(tmp_path / "b.wav", noise(2.5, 1), 16_000)
    return tmp_path


def run(monkeypatch, *arguments: str) -> int:
    """Exit status of the command."""
    monkeypatch.setattr(sys, "argv", ["transcribe", *arguments])
    try:
        stage.main()
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
            return 1
        return stopped.code or 0
    return 0


def test_the_command_of_the_readme(model, audio):
    command = [sys.executable, "-m", "earshot.stages.transcribe", f"program={model / 'model.safetensors'}", "audio=a.flac,b.wav"]
    done = subprocess.run(command, cwd=audio, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
    lines = done.stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["a.flac", "b.wav"]
    assert all(line.split("\t")[1].strip() for line in lines)
    assert not (audio / "outputs").exists()


def test_one_file_gives_its_words_alone(monkeypatch, capsys, model, audio):
    assert run(monkeypatch, f"program={model}", f"audio={audio / 'a.flac'}") == 0
    (words,) = capsys.readouterr().out.splitlines()
    assert "\t" not in words
    assert run(monkeypatch, f"program={model}", f"audio=[{audio / 'a.flac'},{audio / 'b.wav'}]") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{audio / 'a.flac'}\t{words}"


def test_any_rate_and_channels_are_converted_and_told(monkeypatch, capsys, model, tmp_path):
    samples = noise(2.0, 3, 48_000)
    soundfile.write(tmp_path / "mono16.wav", read(samples, 16_000), 16_000)
    soundfile.write(tmp_path / "stereo48.wav", np.stack([samples, samples], axis=1), 48_000)
    soundfile.write(tmp_path / "mono8.ogg", read(samples, 8_000), 8_000)
    files = ",".join(str(tmp_path / name) for name in ("mono16.wav", "stereo48.wav", "mono8.ogg"))
    assert run(monkeypatch, f"program={model}", f"audio={files}") == 0
    told = capsys.readouterr()
    words = dict(line.split("\t") for line in told.out.splitlines())
    assert len(words) == 3
    assert "stereo48.wav: 2 channels, averaged" in told.err
    assert "stereo48.wav: 48000 Hz, resampled to 16000 Hz" in told.err
    assert "mono8.ogg: 8000 Hz" in told.err
    assert "mono16.wav" not in told.err
    converted, reference = read_any(str(tmp_path / "stereo48.wav")), read(samples, 16_000)
    assert len(converted) == len(reference)
    assert np.abs(converted - reference).max() < 1e-3


def read(samples: np.ndarray, rate: int) -> np.ndarray:
    import torch
    import torchaudio

    return torchaudio.functional.resample(torch.from_numpy(samples), 48_000, rate).numpy()


def test_bad_files_are_told_and_the_others_still_transcribed(monkeypatch, capsys, model, audio):
    (audio / "empty.wav").write_bytes(b"")
    (audio / "text.flac").write_text("this is no audio")
    whole = (audio / "b.wav").read_bytes()
    (audio / "cut.flac").write_bytes((audio / "a.flac").read_bytes()[:5000])
    (audio / "folder.wav").mkdir()
    soundfile.write(audio / "none.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(audio / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    names = ["missing.wav", "empty.wav", "text.flac", "cut.flac", "folder.wav", "none.wav", "nan.wav", "b.wav"]
    assert run(monkeypatch, f"program={model}", "audio=" + ",".join(str(audio / name) for name in names)) == 1
    told = capsys.readouterr()
    assert [line.split("\t")[0] for line in told.out.splitlines()] == [str(audio / "b.wav")]
    lines = told.err.splitlines()
    assert len(lines) == 7
    for name, line in zip(names, lines, strict=False):
        assert line.startswith(f"earshot transcribe: {audio / name}: ")
    assert (audio / "b.wav").read_bytes() == whole


def test_very_short_and_very_long_audio(monkeypatch, capsys, model, tmp_path):
    soundfile.write(tmp_path / "click.wav", noise(0.02, 0), 16_000)
    soundfile.write(tmp_path / "long.wav", noise(65.0, 0), 16_000)
    assert run(monkeypatch, f"program={model}", f"audio={tmp_path}/click.wav,{tmp_path}/long.wav") == 0
    click, long = (line.split("\t")[1] for line in capsys.readouterr().out.splitlines())
    assert click == ""
    assert len(long.split()) > 3


NAMES = ["two words.wav", "a=b.wav", "it's.wav", 'say "hi".wav', "a,b.wav", "(1) [x] {y}.wav", "größe~%$.wav", "back\\slash.wav"]


@pytest.mark.parametrize("name", NAMES)
def test_paths_of_any_characters(monkeypatch, capsys, model, audio, name):
    (audio / name).write_bytes((audio / "a.flac").read_bytes())
    assert run(monkeypatch, f"program={model}", f"audio={audio / name},{audio / 'b.wav'}") == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [str(audio / name), str(audio / "b.wav")]


def test_a_comma_divides_unless_it_is_part_of_a_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b.wav").touch()
    (tmp_path / "c.wav").touch()
    assert list(paths("a,b.wav,c.wav")) == ["a,b.wav", "c.wav"]
    assert list(paths("c.wav,missing.wav,c.wav")) == ["c.wav", "missing.wav", "c.wav"]
    assert list(paths("c.wav,")) == ["c.wav"]


@pytest.mark.parametrize(
    ("program", "told"),
    [("nowhere/model.pte", "no such file"), ("", "not a file that can be run"), ("README.md", "not a file that can be run")],
)
def test_a_program_that_cannot_be_run_is_refused_in_one_line(monkeypatch, capsys, audio, program, told):
    (audio / "README.md").write_text("hello")
    assert run(monkeypatch, f"program={audio / program}", f"audio={audio / 'a.flac'}") == 1
    line = capsys.readouterr().err.strip()
    assert told in line
    assert "\n" not in line


def test_a_model_pte_without_its_neighbours_is_refused(monkeypatch, capsys, audio):
    (audio / "model.pte").write_bytes(b"ET")
    assert run(monkeypatch, f"program={audio / 'model.pte'}", f"audio={audio / 'a.flac'}") == 1
    assert "lower.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("audio=a.flac,b.wav", 'audio="a.flac,b.wav"'),
        ("program=x/k=v/model.pte", 'program="x/k=v/model.pte"'),
        ("audio=[a.flac,b.wav]", "audio=[a.flac,b.wav]"),
        ("audio='a b.flac'", "audio='a b.flac'"),
        ("decode.blank_penalty=1.5", "decode.blank_penalty=1.5"),
        ("window=5s", "window=5s"),
        ("+unknown=a,b", "+unknown=a,b"),
        ("--help", "--help"),
    ],
)
def test_only_texts_are_quoted(argument, expected):
    assert verbatim(config.TranscribeStage, argument) == expected


def test_nested_texts_are_quoted_and_null_is_not():
    assert verbatim(config.QuantizeStage, "quant.from_program=a,b.pt2") == 'quant.from_program="a,b.pt2"'
    assert verbatim(config.QuantizeStage, "quant.from_program=null") == "quant.from_program=null"
