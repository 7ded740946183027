"""The lower stage on a tiny model: what comes out for an NPU and for the host, and what is said where it cannot be done."""

import contextlib
import csv
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from executorch.exir import EdgeCompileConfig
from stage_command import fails, run
from tiny_recognizer import PIECES, noise, write_corpus, write_model

from earshot.config import Calib, Quant
from earshot.errors import ArtifactError
from earshot.lower import edge
from earshot.lower.tosa import IntegerGraph
from earshot.lower.xnnpack import HostProgram
from earshot.quantize import program, schemes
from earshot.quantize.calibrate import fit_window

WINDOW = ("window=4s", "window.seconds=2", "window.overlap_s=0.5")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model, quantized for an NPU and for the host."""
    folder = tmp_path_factory.mktemp("lower")
    write_model(folder / "model")
    for split in ("train", "dev", "test"):
        write_corpus(folder / "corpus", [1.0, 2.0, 3.0], ["GO"] * 3, split)
    for family in ("u85", "host"):
        run("quantize", "quant=int8_pc", f"family={family}", f"model_dir={folder / 'model'}", f"corpus_dir={folder / 'corpus'}",
            f"out={folder / family}", *WINDOW)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def npu(folder):
    """The variant directory of an Ethos-U85."""
    run("lower", "target=u85_256", f"program_dir={folder / 'u85'}", f"out={folder / 'u85_256'}")
    return folder / "u85_256"


@pytest.fixture(scope="session")
def host(folder):
    """The variant directory of the host."""
    run("lower", "target=host", f"program_dir={folder / 'host'}", f"out={folder / 'this_host'}")
    return folder / "this_host"


def features(front_end) -> torch.Tensor:
    return fit_window(front_end(noise(1.7, 11)), front_end, 200)[0]


def sqnr_db(reference: torch.Tensor, other: torch.Tensor) -> float:
    return (10 * torch.log10(reference.square().sum() / (reference - other).square().sum().clamp_min(1e-12))).item()


def test_an_int8_program_runs_whole_on_the_npu(npu):
    report = json.loads((npu / "lower.json").read_text())
    assert (report["status"], report["target"], report["window_s"]) == ("ok", "u85_256", 2.0)
    assert report["npu"]["operators_cpu"] == {"dequantize_per_tensor": 1, "quantize_per_tensor": 1}
    assert report["pte_bytes"] == (npu / "model.pte").stat().st_size
    assert report["peak_rss_mib"] > 100 and report["lowering_s"] > 0


def test_the_figures_are_those_of_velas_tables(npu):
    figures = json.loads((npu / "lower.json").read_text())["npu"]
    (summary,) = csv.DictReader((npu / "vela_summary.csv").open())
    layers = list(csv.DictReader((npu / "vela_per_layer.csv").open()))
    assert figures["cycles"] == float(summary["cycles_total"]) > 0
    assert figures["clock_hz"] == float(summary["core_clock"])
    assert figures["latency_ms"] == pytest.approx(1000 * float(summary["inference_time"]), rel=1e-4)
    assert figures["rtf"] == pytest.approx(figures["latency_ms"] / 2000)
    assert figures["sram_kib"] == float(summary["sram_memory_used"])
    assert figures["flash_kib"] == float(summary["off_chip_flash_memory_used"])
    assert figures["macs"] == sum(int(layer["MAC Count"]) for layer in layers)
    assert sum(figures["operators_npu"].values()) == len(layers)


def test_the_integer_graph_computes_what_the_quantized_program_says(folder, npu):
    quantized, graph = program.load(folder / "u85"), IntegerGraph(npu)
    x = features(graph.front_end)
    logits = graph(x)
    assert logits.shape == (49, len(PIECES)) and graph.window_frames == 200 and graph.pieces == PIECES
    assert sqnr_db(quantized(x), logits) > 30
    assert (quantized(x).argmax(-1) == logits.argmax(-1)).float().mean() > 0.95
    assert torch.equal(pickle.loads(pickle.dumps(graph))(x), logits)


def test_the_runtime_computes_what_the_quantized_program_says(folder, host):
    quantized, pte = program.load(folder / "host"), HostProgram(host)
    x = features(pte.front_end)
    logits = pte(x)
    assert logits.shape == (49, len(PIECES)) and pte.window_frames == 200
    assert sqnr_db(quantized(x), logits) > 20
    pte(torch.zeros_like(x))
    assert torch.equal(pte(x), logits)
    assert "npu" not in json.loads((host / "lower.json").read_text())


def test_the_golden_vectors_are_what_the_graph_computes(npu):
    graph = IntegerGraph(npu)
    audio, given, wanted = (np.load(npu / f"golden_{name}.npy") for name in ("audio", "input", "output"))
    assert len(audio) == 32000 and audio.dtype == np.int16
    assert len(np.unique(given)) > 30 and len(np.unique(wanted)) > 5
    assert np.array_equal(graph.run(given), wanted)
    x = fit_window(graph.front_end(audio.astype(np.float32) / 32768), graph.front_end, 200)[0]
    assert np.array_equal(graph.quantize(x), given)
    for name, array in (("audio", audio), ("input", given), ("output", wanted)):
        assert (npu / f"golden_{name}.bin").read_bytes() == array.tobytes()


def test_the_readme_of_the_bundle_has_this_variants_numbers(npu):
    text, boundary = (npu / "README.md").read_text(), json.loads((npu / "graph.json").read_text())
    for end in ("input", "output"):
        assert repr(boundary[end]["scale"]) in text
        assert str(boundary[end]["shape"]) in text
    assert "40 ms" in text and "ethos-u85-256" in text
    memory = list(csv.DictReader((npu / "memory.csv").open()))
    figures = json.loads((npu / "lower.json").read_text())["npu"]
    assert {row["memory"]: float(row["kib"]) for row in memory} == {"SRAM": figures["sram_kib"], "Off-chip Flash": figures["flash_kib"]}


class Small(torch.nn.Module):
    """A network with the shapes of the tiny Conformer, which is lowered in a second or two."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.hidden, self.out = torch.nn.LayerNorm(320), torch.nn.Linear(320, 16), torch.nn.Linear(16, len(PIECES))

    def forward(self, x_btf: torch.Tensor) -> torch.Tensor:
        x_btd = torch.nn.functional.silu(self.hidden(self.norm(x_btf[:, :196].reshape(1, 49, 320))))
        return self.out(torch.matmul(torch.softmax(torch.matmul(x_btd, x_btd.transpose(1, 2)), dim=-1), x_btd))


@pytest.fixture(scope="session")
def small(folder):
    """A program directory of the small network."""
    x = torch.randn(1, 200, 80, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(Small().eval(), (x,), strict=True)
    converted = program.quantize(exported, schemes.quantizer(Quant(scheme="int8_pc"), Calib(), "u85"), [x])
    shutil.copytree(folder / "u85", folder / "small")
    program.save(program.reexport(converted, 200, 80), folder / "small" / program.PROGRAM)
    return folder / "small"


def test_the_program_is_the_same_to_the_byte_without_the_short_cuts_of_tracing(small, tmp_path, monkeypatch):
    run("lower", "target=u85_256", f"program_dir={small}", f"out={tmp_path / 'lean'}")
    monkeypatch.setattr(edge, "lean_tracing", contextlib.nullcontext)
    monkeypatch.setattr(edge, "EdgeCompileConfig", lambda **_: EdgeCompileConfig())
    run("lower", "target=u85_256", f"program_dir={small}", f"out={tmp_path / 'plain'}")
    for name in ("graph.tosa", "model.pte"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "lean" / name).read_bytes()


def test_a_program_that_the_compiler_refuses_is_a_row_with_a_reason(small, npu, tmp_path, capfd):
    x = torch.randn(1, 200, 80, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(Small().eval(), (x,), strict=True)
    converted = program.quantize(exported, schemes.quantizer(Quant(scheme="a16w8", activation_bits=16), Calib(), "u55"), [x])
    shutil.copytree(small, tmp_path / "a16w8")
    program.save(program.reexport(converted, 200, 80), tmp_path / "a16w8" / program.PROGRAM)
    report = json.loads((small / "quantize.json").read_text())
    (tmp_path / "a16w8" / "quantize.json").write_text(json.dumps({**report, "family": "u55"}))
    shutil.copytree(npu, tmp_path / "out")  # what an earlier lowering left behind
    run("lower", "target=u55_256", f"program_dir={tmp_path / 'a16w8'}", f"out={tmp_path / 'out'}")
    found = json.loads((tmp_path / "out" / "lower.json").read_text())
    assert found["status"] == "failed"
    assert "Compilation failed" in found["reason"] and "\n" not in found["reason"]
    assert "npu" not in found and "pte_bytes" not in found
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"lower.json", "vela.log"}
    assert found["reason"] in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("target=u85_256", "target.accelerator=ethos-u85-300"), ("ethos-u85-300", "ethos-u85-256")),
        (("target=u85_256", "target.system_config=Ethos_U55_High_End_Embedded"), ("system_config", "Ethos_U85_SYS_Flash_High")),
        (("target=u85_256", "target.memory_mode=Some_Sram"), ("Some_Sram", "Shared_Sram")),
        (("target=u55_128",), ("family u55", "u85")),
        (("target=host",), ("family host", "u85")),
    ],
)
def test_a_target_that_does_not_exist_or_fit_is_refused(folder, tmp_path, arguments, named):
    message = fails("lower", *arguments, f"program_dir={folder / 'u85'}", f"out={tmp_path / 'out'}")
    assert all(word in message for word in named)
    assert not (tmp_path / "out").exists()


def test_damaged_variants_are_refused_by_the_file(npu, host, tmp_path):
    for source, name, opened in ((npu, "graph.tosa", IntegerGraph), (host, "model.pte", HostProgram)):
        for damage in (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 64 + b[64:]):
            damaged = tmp_path / "damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(source, damaged)
            (damaged / name).write_bytes(damage((source / name).read_bytes()))
            with pytest.raises(ArtifactError, match=f"{name}: damaged"):
                opened(damaged)
