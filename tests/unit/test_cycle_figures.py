"""Where the cycles and the memory of a lowered model go: the tables add up to Vela's estimate, and a damaged one is refused."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from tiny_recognizer import PIECES

from earshot.errors import ArtifactError
from earshot.lower import cycle_report, ethosu

pytestmark = pytest.mark.xdist_group("lower")


@pytest.fixture(scope="session")
def database(npu, tmp_path_factory):
    """What Vela says of the layers of the variant, compiled once more."""
    out = tmp_path_factory.mktemp("vela")
    shutil.copy(npu / "graph.tosa", out / "out.tosa")
    system = (
        "--accelerator-config=ethos-u85-256",
        "--config=Arm/vela.ini",
        "--system-config=Ethos_U85_SYS_Flash_High",
        "--memory-mode=Shared_Sram",
    )
    words = ("--output-format=raw", f"--output-dir={out}", *ethosu.FLAGS, *ethosu.NOTES, *system, str(out / "out.tosa"))
    subprocess.run([sys.executable, "-m", "ethosu.vela", *words], check=True, capture_output=True)
    return out / "out_debug.xml"


def sums_of(table, key) -> dict[str, int]:
    found = Counter()
    for row in csv.DictReader(table.open()):
        found[row[key]] += int(row["cycles"])
    return dict(found)


def test_the_cycle_report_adds_up_to_velas_estimate(npu):
    figures = json.loads((npu / "lower.json").read_text())["npu"]
    layers = list(csv.DictReader((npu / "vela_per_layer.csv").open()))
    kinds, modules = Counter(), sums_of(npu / "cycles_by_module.csv", "module")
    for layer in layers:
        kinds[layer["NNG Operator"]] += int(layer["Op Cycles"])
    assert sums_of(npu / "cycles_by_operator.csv", "operator") == sums_of(npu / "cycles_by_layer.csv", "operator") == kinds
    assert modules == sums_of(npu / "cycles_by_layer.csv", "module")
    assert sum(kinds.values()) == sum(modules.values()) == figures["cycles"]
    parts = ("feed_forward1", "self_attention", "convolution", "feed_forward2", "norm")
    names = list(modules)
    assert [name for name in names if name.startswith("blocks.0.")] == [f"blocks.0.{part}" for part in parts], "as data runs through them"
    assert names[0].startswith("subsampling") and names[-1] == "output"
    assert 0.9 < figures["cycles_attributed_exactly"] <= 1
    assert 0 < figures["mac_floor_cycles"] / figures["cycles"] <= figures["mac_utilisation"] * 1.01


def test_the_floors_of_a_layer_are_those_computed_by_hand(npu):
    figures = json.loads((npu / "lower.json").read_text())["npu"]
    (summary,) = csv.DictReader((npu / "vela_summary.csv").open())
    modules = {row["module"]: row for row in csv.DictReader((npu / "cycles_by_module.csv").open())}
    macs = 49 * 16 * len(PIECES)
    assert (int(modules["output"]["macs"]), int(modules["output"]["mac_floor_cycles"])) == (macs, math.ceil(macs / 256))
    assert float(modules["output"]["mac_utilisation"]) == pytest.approx(macs / 256 / int(modules["output"]["cycles"]))
    assert figures["flash_floor_cycles"] == int(summary["total_npu_encoded_weights"]), "a byte a cycle: 500 MB/s at 500 MHz"
    assert figures["flash_bytes"] == int(summary["off_chip_flash_total_bytes"])
    assert 1000 < (npu / "cycles.svg").stat().st_size < 1_000_000 and "blocks.0.self_attention" in (npu / "cycles.svg").read_text()


def test_the_layer_that_needs_most_sram_is_named(npu):
    (summary,) = csv.DictReader((npu / "vela_summary.csv").open())
    layers = list(csv.DictReader((npu / "cycles_by_layer.csv").open()))
    highest = max(layers, key=lambda layer: int(layer["sram_bytes"]))
    assert 0.5 < int(highest["sram_bytes"]) / 1024 / float(summary["sram_memory_used"]) <= 1
    assert f"{highest['module']}, {highest['operator']} ({highest['layer']})" in (npu / "sram.svg").read_text()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("vela_per_layer.csv", lambda text: text[: len(text) // 2]),
        ("vela_per_layer.csv", lambda text: text.replace("Op Cycles", "Cycles")),
        ("vela_summary.csv", lambda text: text.splitlines()[0]),
        ("graph_modules.json", lambda text: text.replace('graph_sha256": "', 'graph_sha256": "0')),
        ("out_debug.xml", lambda text: text[: len(text) // 2]),
        ("out_debug.xml", lambda text: text.replace("source_id", "id_of_source")),
    ],
)
def test_a_damaged_table_is_refused_by_its_name(npu, database, tmp_path, name, damage):
    shutil.copytree(npu, tmp_path / "u85_256")
    shutil.copy(database, tmp_path / "u85_256")
    broken = tmp_path / "u85_256" / name
    cycle_report.write(tmp_path / "u85_256", tmp_path / "u85_256" / database.name, "ethos-u85-256")
    broken.write_text(damage(broken.read_text()))
    with pytest.raises(ArtifactError, match=name):
        cycle_report.write(tmp_path / "u85_256", tmp_path / "u85_256" / database.name, "ethos-u85-256")
