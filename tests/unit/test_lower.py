"""The lower stage on a tiny model for an NPU: what comes out, and what is said where it cannot be done."""

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from ethosu.vela import vela
from executorch.backends.arm.ethosu import EthosUPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.exir.lowered_backend_module import LoweredBackendModule
from hydra import compose, initialize_config_dir
from lowering import WINDOW, check_damaged, features, sqnr_db, write_small
from stage_command import fails, run
from tiny_recognizer import PIECES, write_model

from earshot.config import CONF_DIR, Part, Quant, typed
from earshot.errors import ArtifactError
from earshot.lower import ethosu, judge, tosa_operators
from earshot.lower.tosa import IntegerGraph
from earshot.quantize import program
from earshot.windows import fit_window

pytestmark = pytest.mark.xdist_group("lower")


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


def test_the_integer_graph_computes_what_the_quantized_program_says(programs, npu):
    quantized, graph = program.load(programs / "u85"), IntegerGraph(npu)
    x = features(graph.front_end)
    logits = graph(x)
    assert logits.shape == (49, len(PIECES)) and graph.window_frames == 200 and graph.pieces == PIECES
    assert sqnr_db(quantized(x), logits) > 30
    assert (quantized(x).argmax(-1) == logits.argmax(-1)).float().mean() > 0.95
    assert torch.equal(pickle.loads(pickle.dumps(graph))(x), logits)


def test_the_golden_vectors_are_what_the_graph_computes(npu):
    graph = IntegerGraph(npu)
    audio, given, wanted = (np.load(npu / f"golden_{name}.npy") for name in ("audio", "input", "output"))
    assert len(audio) == 32000 and audio.dtype == np.int16
    assert len(np.unique(given)) > 30 and len(np.unique(wanted)) > 5
    assert np.array_equal(*graph.run(given), wanted)
    x = fit_window(graph.front_end(audio.astype(np.float32) / 32768), graph.front_end, 200)[0]
    assert np.array_equal(*graph.quantize(x), given)
    for name, array in (("audio", audio), ("input", given), ("output", wanted)):
        assert (npu / f"golden_{name}.bin").read_bytes() == array.tobytes()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here to compile the front end with")
def test_the_front_end_in_c_computes_the_golden_input(npu, tmp_path):
    """By the commands that the README of the bundle gives, with gcc as strict as it can be."""
    lines = (npu / "README.md").read_text().splitlines()
    build, check = (next(line.strip() for line in lines if line.startswith(f"    {word}")) for word in ("gcc", "./check"))
    shutil.copytree(npu, tmp_path / "bundle")
    strict = "-Wall -Wextra -Wpedantic -Wconversion -Werror"
    subprocess.run([*build.split(), *strict.split()], cwd=tmp_path / "bundle", check=True, capture_output=True)
    said = subprocess.run(check.split(), cwd=tmp_path / "bundle", check=True, capture_output=True, text=True).stdout
    assert "features: 16000 values" in said and "of 16000 integers differ" in said
    features = np.load(npu / "golden_features.npy")
    features[100, 3] += 2e-3
    (tmp_path / "bundle" / "golden_features.bin").write_bytes(features.tobytes())
    failed = subprocess.run(check.split(), cwd=tmp_path / "bundle", capture_output=True, text=True)
    assert failed.returncode == 1


def test_a_graph_is_judged_by_the_reference_model(npu):
    """On the golden signal and on the ends of the input's type. The weights of what the reference model is given are changed here."""
    assert json.loads((npu / "graph.json").read_text())["reference_windows"] == 3
    graph, given = IntegerGraph(npu), (np.load(npu / "golden_input.npy"),)
    content = (npu / "graph.tosa").read_bytes()
    read = tosa_operators.read_graph(content, npu / "graph.tosa")
    weights = read.tensors[next(one.weights for one in read.operators if one.weights)].data.tobytes()
    assert np.array_equal(*judge.compare(graph, given, "the golden signal"), np.load(npu / "golden_output.npy"))
    graph._graph = content.replace(weights, weights[::-1])
    with pytest.raises(ArtifactError, match=r"graph\.tosa: on the golden signal: .* differ in \d+ of 490 values"):
        judge.compare(graph, given, "the golden signal")
    with pytest.raises(ArtifactError, match=r"on .* input: .* differ"), judge.extremes_compared(graph) as compared:
        compared()


def test_a_graph_is_used_while_it_is_judged(npu):
    graph, usual = IntegerGraph(npu), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # what one thread must not disturb in another, it disturbs at once
    try:
        with judge.extremes_compared(graph) as compared:
            for i in range(10_000):
                setattr(graph, f"made_{i}", None)  # as it keeps its executor, once made
            assert compared() == 2
    finally:
        sys.setswitchinterval(usual)


def test_the_readme_of_the_bundle_has_this_variants_numbers(npu):
    text, boundary = (npu / "README.md").read_text(), json.loads((npu / "graph.json").read_text())
    for end in ("input", "output"):
        assert repr(boundary[end]["scale"]) in text
        assert str(boundary[end]["shape"]) in text
    assert "40 ms" in text and "ethos-u85-256" in text
    memory = list(csv.DictReader((npu / "memory.csv").open()))
    figures = json.loads((npu / "lower.json").read_text())["npu"]
    assert {row["memory"]: float(row["kib"]) for row in memory} == {"SRAM": figures["sram_kib"], "Off-chip Flash": figures["flash_kib"]}


@pytest.fixture(scope="session")
def small(programs):
    """Program directories of the small network by family, lowered to TOSA."""
    made = {family: write_small(programs, programs / f"small_{family}", Quant(scheme="int8_pc"), family) for family in ("u85", "u55")}
    for path in made.values():
        run("tosa", f"program_dir={path}")
    return made


MIXTURES = {
    "weights": [Part(modules="hidden", weight_bits=4)],
    "activations": [Part(modules="h*", activation_bits=16), Part(modules="out", weight_bits=4)],
}


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_of_precisions_runs_whole_on_the_npu(programs, tmp_path, name):
    out = write_small(programs, tmp_path / name, Quant(scheme="mixed", parts=MIXTURES[name]), "u85")
    run("tosa", f"program_dir={out}")
    assert json.loads((out / "graph.json").read_text())["operators_cpu"] == {"dequantize_per_tensor": 1, "quantize_per_tensor": 1}
    quantized, graph = program.load(out), IntegerGraph(out)
    x = features(graph.front_end)
    assert sqnr_db(quantized(x), graph(x)) > 30


def lowered_at_once(program_dir, name: str, folder) -> tuple[bytes, bytes]:
    """The TOSA graph and the .pte of a program as ExecuTorch makes them in one go, with nothing of ours but the target's options."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF_DIR)):
        target = typed(compose("lower", overrides=[f"target={name}", "program_dir=x", "out=x"])).target
    spec = ethosu.compile_spec(target)
    spec.dump_intermediate_artifacts_to(str(folder))
    edge = to_edge_transform_and_lower(program.read(program_dir / program.PROGRAM), partitioner=[EthosUPartitioner(spec)])
    for module in edge.exported_program().graph_module.modules():
        if isinstance(module, LoweredBackendModule):  # the folder of this test is no part of the program
            module.compile_specs[:] = [spec for spec in module.compile_specs if spec.key != "debug_artifact_path"]
    return (folder / "out.tosa").read_bytes(), bytes(edge.to_executorch().buffer)


@pytest.mark.parametrize(("family", "target"), [("u85", "u85_1024"), ("u55", "u65_512")])
def test_one_graph_gives_each_target_what_a_lowering_of_its_own_gives(small, tmp_path, family, target):
    run("lower", f"target={target}", f"program_dir={small[family]}", f"out={tmp_path / 'shared'}")
    graph, pte = lowered_at_once(small[family], target, tmp_path)
    assert (tmp_path / "shared" / "graph.tosa").read_bytes() == graph == (small[family] / "graph.tosa").read_bytes()
    assert (tmp_path / "shared" / "model.pte").read_bytes() == pte


@pytest.mark.slow
def test_the_npu_form_of_several_layers_is_lowered_as_executorch_lowers_it(programs, tmp_path):
    write_model(tmp_path / "model", layers=2)
    given = f"model_dir={tmp_path / 'model'}", f"corpus_dir={programs / 'corpus'}", f"out={tmp_path / 'u85'}"
    run("quantize", "quant=int8_pc", "calib.utterances=2", "family=u85", *given, *WINDOW)
    run("tosa", f"program_dir={tmp_path / 'u85'}")
    run("lower", "target=u85_256", f"program_dir={tmp_path / 'u85'}", f"out={tmp_path / 'shared'}")
    graph, pte = lowered_at_once(tmp_path / "u85", "u85_256", tmp_path)
    assert (tmp_path / "u85" / "graph.tosa").read_bytes() == graph
    assert (tmp_path / "shared" / "model.pte").read_bytes() == pte


def test_a_program_above_the_budget_of_sram_says_what_it_needs(small, tmp_path):
    run("lower", "target=u85_256_1m", f"program_dir={small['u85']}", f"out={tmp_path / 'ample'}")
    ample = json.loads((tmp_path / "ample" / "lower.json").read_text())
    assert ample["status"] == "ok" and 1 < ample["npu"]["sram_kib"] < 1024
    run("lower", "target=u85_256_1m", "target.sram_kib=1", f"program_dir={small['u85']}", f"out={tmp_path / 'out'}")
    found = json.loads((tmp_path / "out" / "lower.json").read_text())
    assert found["status"] == "over_budget"
    assert f"needs {found['npu']['sram_kib']:g} KiB" in found["reason"] and "target.sram_kib=1 " in found["reason"]
    assert found["pte_bytes"] == (tmp_path / "out" / "model.pte").stat().st_size, "the program and its figures are there all the same"


def test_a_small_dedicated_sram_is_kept_to(small, tmp_path):
    run("lower", "target=u85_256_512k", "target.sram_kib=16", f"program_dir={small['u85']}", f"out={tmp_path / 'out'}")
    found = json.loads((tmp_path / "out" / "lower.json").read_text())
    assert found["status"] == "ok" and found["npu"]["sram_kib"] <= 16 and found["npu"]["dram_kib"] > 0


def test_the_graph_of_an_earlier_program_is_not_taken(small, tmp_path):
    shutil.copytree(small["u85"], tmp_path / "program")
    report = json.loads((tmp_path / "program" / "quantize.json").read_text())
    (tmp_path / "program" / "quantize.json").write_text(json.dumps({**report, "program_sha256": "0" * 64}))
    message = fails("lower", "target=u85_256", f"program_dir={tmp_path / 'program'}", f"out={tmp_path / 'out'}")
    assert "graph.json" in message and "tosa step" in message


def test_a_damaged_graph_is_not_compiled(small, tmp_path):
    shutil.copytree(small["u85"], tmp_path / "program")
    (tmp_path / "program" / "graph.tosa").write_bytes(b"x" * 1000)
    message = fails("lower", "target=u85_256", f"program_dir={tmp_path / 'program'}", f"out={tmp_path / 'out'}")
    assert "graph.tosa: damaged" in message and not (tmp_path / "out").exists()


def test_a_program_that_the_compiler_refuses_is_a_row_with_a_reason(programs, npu, tmp_path, capfd):
    write_small(programs, tmp_path / "a16w8", Quant(scheme="a16w8", activation_bits=16), "u55")
    shutil.copytree(npu, tmp_path / "out")  # what an earlier lowering left behind
    shutil.copyfile(npu / "graph.tosa", tmp_path / "a16w8" / "graph.tosa")
    run("tosa", f"program_dir={tmp_path / 'a16w8'}")
    assert not (tmp_path / "a16w8" / "graph.tosa").exists()
    run("lower", "target=u55_256", f"program_dir={tmp_path / 'a16w8'}", f"out={tmp_path / 'out'}")
    found = json.loads((tmp_path / "out" / "lower.json").read_text())
    assert found["status"] == "failed"
    assert "left to the CPU: 2 bmm" in found["reason"] and "\n" not in found["reason"]
    assert "npu" not in found and "pte_bytes" not in found
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"lower.json"}
    assert found["reason"] in capfd.readouterr().err


@pytest.mark.parametrize("ending", [RuntimeError("no room for 3 tensors"), SystemExit(1), signal.SIGSEGV, signal.SIGKILL])
def test_a_compiler_that_crashes_is_a_row_with_its_last_lines(npu, programs, tmp_path, monkeypatch, ending):
    """Whatever Vela ends with, a signal too, and whether Python or native code says the lines."""

    def crash(arguments: list[str]) -> None:
        print("Warning: of the first pass")
        print("Scheduling\n")
        os.write(2, b"Error: command stream of layer 7\n")
        if isinstance(ending, signal.Signals):
            os.kill(os.getpid(), ending)
        raise ending

    monkeypatch.setattr(vela, "main", crash)
    shutil.copytree(npu, tmp_path / "out")  # what an earlier lowering left behind
    run("lower", "target=u85_256", f"program_dir={programs / 'u85'}", f"out={tmp_path / 'out'}")
    found = json.loads((tmp_path / "out" / "lower.json").read_text())
    assert found["status"] == "failed"
    *said, last = found["reason"].split(" | ")
    assert said[-2:] == ["Scheduling", "Error: command stream of layer 7"]
    assert last == (
        f"the compiler was ended by {ending.name}" if isinstance(ending, signal.Signals) else f"{type(ending).__name__}: {ending}"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"lower.json", "vela.log"}
    assert "of the first pass" in (tmp_path / "out" / "vela.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("target=u85_256", "target.accelerator=ethos-u85-300"), ("ethos-u85-300", "ethos-u85-256")),
        (("target=u85_256", "target.system_config=Ethos_U55_High_End_Embedded"), ("system_config", "Ethos_U85_SYS_Flash_High")),
        (("target=u85_256", "target.memory_mode=Some_Sram"), ("Some_Sram", "Shared_Sram")),
        (("target=u85_256", "target.sram_kib=0"), ("sram_kib", "at least 1")),
        (("target=host", "target.sram_kib=512"), ("sram_kib", "host")),
        (("target=u55_128",), ("family u55", "u85")),
        (("target=host",), ("family host", "u85")),
    ],
)
def test_a_target_that_does_not_exist_or_fit_is_refused(programs, tmp_path, arguments, named):
    message = fails("lower", *arguments, f"program_dir={programs / 'u85'}", f"out={tmp_path / 'out'}")
    assert all(word in message for word in named)
    assert not (tmp_path / "out").exists()


def test_a_damaged_graph_of_a_variant_is_refused_by_its_file(npu, tmp_path):
    check_damaged(npu, "graph.tosa", IntegerGraph, tmp_path)
