"""What several files of tests share: a tiny model, quantized and lowered once, and a tiny training.

Files that use them are of one group, `lower` or `fitting`, which runs in one process. Long imports are where they are needed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from stage_command import run
from tiny_recognizer import write_corpus, write_model


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    """A folder with model/, corpus/ and the program u85/ of an NPU."""
    folder = tmp_path_factory.mktemp("lower")
    write_model(folder / "model")
    for split in ("train", "dev", "test"):
        write_corpus(folder / "corpus", [1.0, 2.0, 3.0], ["GO"] * 3, split)
    quantize(folder, "u85")
    return folder


@pytest.fixture(scope="session")
def npu(programs) -> Path:
    """The variant directory of an Ethos-U85."""
    run("tosa", f"program_dir={programs / 'u85'}")
    run("lower", "target=u85_256", f"program_dir={programs / 'u85'}", f"out={programs / 'u85_256'}")
    return programs / "u85_256"


@pytest.fixture(scope="session")
def host(programs) -> Path:
    """The variant directory of the host; its program is in host/."""
    quantize(programs, "host")
    run("lower", "target=host", f"program_dir={programs / 'host'}", f"out={programs / 'this_host'}")
    return programs / "this_host"


def quantize(folder: Path, family: str) -> None:
    from lowering import WINDOW

    given = f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}", f"out={folder / family}"
    run("quantize", "quant=int8_pc", f"family={family}", "calib.utterances=3", *given, *WINDOW)


@pytest.fixture(scope="session")
def speech(tmp_path_factory) -> Path:
    from small_training import write_speech

    return write_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="session")
def noises(tmp_path_factory) -> Path:
    from small_training import write_noises

    return write_noises(tmp_path_factory.mktemp("musan"))


@pytest.fixture
def train(speech, monkeypatch):
    """A `small_training.Trainer`."""
    from small_training import Trainer

    return Trainer(speech, monkeypatch)


@pytest.fixture(scope="session")
def plain(speech, tmp_path_factory) -> tuple[list[list[str]], Path]:
    """The batches of a training that was left alone, and its model directory."""
    from small_training import Trainer

    out = tmp_path_factory.mktemp("plain") / "model"
    return Trainer(speech, pytest.MonkeyPatch())(out), out
