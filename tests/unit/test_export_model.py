"""A trained model for those who deploy it elsewhere: every format computes what the model computes, or is not there."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from executorch.runtime import Runtime
from stage_command import fails, run
from tiny_recognizer import noise, write_model

from earshot.config import Features
from earshot.export import formats
from earshot.export.front_end import WindowFrontEnd
from earshot.features import FrontEnd
from earshot.files import sha256
from earshot.model import checkpoint

WINDOW = ("window.seconds=1", "window.overlap_s=0.5")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is exported where the extra [onnx] is installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, speech-like golden features, and its export in every format."""
    folder = tmp_path_factory.mktemp("export")
    write_model(folder / "model")
    (folder / "tokenizer.model").write_bytes(b"pieces")
    write_golden(folder / "golden.npz", FrontEnd.load(folder / "model" / "front_end.json"))
    run("export_model", *words(folder), f"golden={folder / 'golden.npz'}", f"tokenizer_model={folder / 'tokenizer.model'}", *WINDOW)
    return folder


def words(folder, **changes) -> list[str]:
    return [f"{key}={value}" for key, value in ({"model_dir": folder / "model", "out": folder / "out"} | changes).items()]


def write_golden(path, front_end) -> None:
    audio = np.round(noise(0.8, 5) * 32768).astype(np.int16)
    np.savez(path, audio=audio, features=front_end(audio.astype(np.float32) / 32768).numpy())


@pytest.fixture
def recognizer(folder):
    return checkpoint.load(folder / "model")


@pytest.fixture
def audio(recognizer) -> torch.Tensor:
    """A window of audio that no format was compared on."""
    return torch.from_numpy(noise(2.0, 9)[: recognizer.front_end.samples(100)])


def logits(recognizer, audio) -> torch.Tensor:
    with torch.inference_mode():
        return recognizer.model(recognizer.front_end(audio)[None])


def pte(path, x) -> torch.Tensor:
    return Runtime.get().load_program(path).load_method("forward").execute([x])[0].clone()


def test_the_report_says_what_each_format_is_and_by_how_much_it_differs(folder):
    report = json.loads((folder / "out" / "export.json").read_text())
    assert list(report["formats"]) == list(formats.FORMATS)
    for name, one in report["formats"].items():
        assert one["status"] == "ok" and 0 <= one["largest_difference"] <= formats.FORMATS[name].tolerance
        assert one["files"] and all(sha256(folder / "out" / file) == said["sha256"] for file, said in one["files"].items())
    written = {file for one in report["formats"].values() for file in one["files"]}
    assert {path.name for path in (folder / "out").iterdir()} == written | {"export.json"}
    assert (report["audio"], report["features"], report["logits"]) == ([1, 16352], [1, 100, 80], [1, 24, 10])
    assert report["model_sha256"] == sha256(folder / "model" / "model.safetensors") and "onnx" in report["versions"]


def test_the_network_gives_the_same_logits_in_other_runtimes(folder, recognizer, audio):
    wanted, features = logits(recognizer, audio), recognizer.front_end(audio)[None]
    session = onnxruntime.InferenceSession(folder / "out" / "network.onnx")
    (onnx,) = session.run(None, {session.get_inputs()[0].name: features.numpy()})
    torch.testing.assert_close(torch.from_numpy(onnx), wanted, atol=1e-4, rtol=0)
    script = torch.jit.load(folder / "out" / "network.torchscript.pt")
    torch.testing.assert_close(script(features), wanted, atol=1e-4, rtol=0)
    exported = torch.export.load(folder / "out" / "network.pt2").module()
    torch.testing.assert_close(exported(features), wanted, atol=1e-4, rtol=0)


def test_the_front_end_is_a_program_of_its_own(folder, recognizer, audio):
    wanted = recognizer.front_end(audio)[None]
    torch.testing.assert_close(pte(folder / "out" / "front_end.pte", audio[None]), wanted, atol=1e-3, rtol=0)
    exported = torch.export.load(folder / "out" / "front_end.pt2").module()
    torch.testing.assert_close(exported(audio[None]), wanted, atol=1e-3, rtol=0)


def test_one_program_goes_from_audio_to_logits(folder, recognizer, audio):
    torch.testing.assert_close(pte(folder / "out" / "from_audio.pte", audio[None]), logits(recognizer, audio), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"win_length": 512, "floor_by": "sum"},
        {"win_length": 320, "hop_length": 160, "n_fft": 320, "n_mels": 40},  # whole hops, nothing around the window
        {"win_length": 100, "hop_length": 160, "n_fft": 300, "f_min_hz": 100.0},  # a hop longer than the window, no power of two
    ],
)
def test_any_front_end_is_the_same_as_matrix_products(changes):
    config = Features(**changes)
    front_end = FrontEnd(config, [-4.0] * config.n_mels, [3.0] * config.n_mels)
    audio = torch.from_numpy(noise(1.0, 4))[: front_end.samples(50)]
    made = WindowFrontEnd(front_end, 50)
    assert len(audio) == made.samples
    torch.testing.assert_close(made(audio[None])[0], front_end(audio), atol=5e-4, rtol=0)


def test_the_portable_folder_is_a_model_directory(folder, recognizer, audio, tmp_path):
    for name in ("model.safetensors", "config.yaml", "front_end.json", "tokenizer.pieces"):
        shutil.copyfile(folder / "out" / name, tmp_path / name)
    moved = checkpoint.load(tmp_path)
    assert torch.equal(logits(moved, audio), logits(recognizer, audio)) and moved.pieces == recognizer.pieces
    assert (folder / "out" / "tokenizer.model").read_bytes() == b"pieces"


def test_a_format_that_departs_is_not_kept(folder, tmp_path, monkeypatch):
    """TorchScript of a network with other weights: the others are there, and the report and the exit status say it."""

    def other(subject, to):
        changed = subject.recognizer.model.for_window(subject.frames)
        changed.output.bias.data += 2e-4
        torch.jit.trace(changed, (subject.features,), check_trace=False).save(to / "network.torchscript.pt")

    monkeypatch.setitem(formats.FORMATS, "torchscript", formats.Format(("network.torchscript.pt",), other, formats._run_torchscript))
    said = fails("export_model", *words(folder, out=tmp_path / "out", formats="[torchscript,safetensors]"), *WINDOW)
    assert "torchscript refused (departs from the model by 0.0002, allowed is 0.0001)" in said
    report = json.loads((tmp_path / "out" / "export.json").read_text())["formats"]
    assert (report["torchscript"]["status"], report["safetensors"]["status"]) == ("refused", "ok")
    assert not (tmp_path / "out" / "network.torchscript.pt").exists() and (tmp_path / "out" / "model.safetensors").exists()


def without(*names):
    """Makes a copy of the model directory that lacks files."""

    def copy(folder, tmp_path):
        shutil.copytree(folder / "model", tmp_path / "model", ignore=shutil.ignore_patterns(*names))
        return {"model_dir": tmp_path / "model"}

    return copy


def of_another_front_end(folder, tmp_path):
    write_golden(tmp_path / "other.npz", FrontEnd(Features(), [0.0] * 80, [1.0] * 80))
    return {"golden": tmp_path / "other.npz"}


def given(**changes):
    return lambda folder, tmp_path: changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (given(formats="[safetensors,tflite]"), "tflite is no format; choose of safetensors, torchscript"),
        (given(formats="[]"), "none is no format"),
        (given(**{"window.left_context_s": 1}), "window.left_context_s=1: exports have no cache"),
        (given(tokenizer_model="nowhere.model"), "tokenizer_model=nowhere.model: no such file"),
        (given(golden="nowhere.npz"), "nowhere.npz: not a golden.npz"),
        (of_another_front_end, "other.npz: its features are not those of the model's front end"),
        (without("tokenizer.pieces"), "model/tokenizer.pieces: no such file"),
        (without("front_end.json"), "model/front_end.json: no such file"),
        (without("model.safetensors"), "model/model.safetensors: no such file"),
        (lambda folder, tmp_path: {"out": folder / "model"}, "is the model directory itself"),
    ],
)
def test_a_mistake_is_one_clear_line(folder, tmp_path, change, message):
    assert message in fails("export_model", *words(folder, **({"out": tmp_path / "out"} | change(folder, tmp_path))), *WINDOW)
    assert not (tmp_path / "out").exists()


def test_onnx_that_is_not_installed_is_said_with_how_to_install_it(folder, tmp_path, monkeypatch):
    from earshot.stages import export_model

    monkeypatch.setattr(export_model, "OF_ONNX", ("onnx", "no_such_module"))
    said = fails("export_model", *words(folder, out=tmp_path / "out"), *WINDOW)
    assert "no_such_module" in said and "pip install -e '.[onnx]'" in said and not (tmp_path / "out").exists()
