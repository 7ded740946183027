"""Programs from elsewhere that hold code: refused before anything of them is loaded, by the command that they are given to."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harmful import Harmful
from stage_command import fails
from tiny_recognizer import write_model

from earshot.quantize import program

WEIGHTS, CONSTANTS, GRAPH = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json", "models/model.json"
Parts = dict[str, bytes]


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def changed(parts: Parts, entry: str, change: Callable[[dict], object]) -> None:
    content = json.loads(parts[entry])
    change(content)
    parts[entry] = json.dumps(content).encode()


def weight_as_pickle(parts: Parts, written: Path) -> None:
    changed(parts, WEIGHTS, lambda config: config["config"]["weight"].update(use_pickle=True))
    parts["data/weights/weight_0"] = saved(Harmful(written))


def sample_inputs(parts: Parts, written: Path) -> None:
    parts["data/sample_inputs/model.pt"] = saved(Harmful(written))


def weights_as_formerly(parts: Parts, written: Path) -> None:
    parts["data/weights/model.pt"] = saved(Harmful(written))


def opaque_constant(parts: Parts, written: Path) -> None:
    described = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    changed(parts, CONSTANTS, lambda config: config["config"].update(one=described))
    parts["data/constants/opaque_obj_0"] = pickle.dumps(Harmful(written))


def symbolic_size(parts: Parts, written: Path) -> None:
    size = {"as_expr": {"expr_str": f"open({str(written)!r}, 'w').fileno()", "hint": None}}
    changed(parts, GRAPH, lambda graph: graph["graph_module"]["graph"]["tensor_values"]["linear"].update(sizes=[size]))


def symbolic_size_in_other_letters(parts: Parts, written: Path) -> None:
    symbolic_size(parts, written)
    parts[GRAPH] = parts[GRAPH].replace(b"expr_str", rb"expr\u005fstr")


def name_of_a_weight(parts: Parts, written: Path) -> None:
    named = json.dumps(f'weight", open("{written}", "w")) or ("').encode()  # it ends up in `getattr(self, "...")`
    for entry, key in ((WEIGHTS, b""), (GRAPH, b'"parameter_name": ')):
        parts[entry] = parts[entry].replace(key + b'"weight"', key + named)


def operator_on_files(parts: Parts, written: Path) -> None:
    values = {"filename": {"as_string": str(written)}, "shared": {"as_bool": True}, "size": {"as_int": 1}}
    call = {"target": "torch.ops.aten.from_file.default", "inputs": [{"name": name, "arg": values[name], "kind": 1} for name in values]}
    changed(parts, GRAPH, lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(call))


def operator_behind_a_space(parts: Parts, written: Path) -> None:
    operator_on_files(parts, written)
    parts[GRAPH] = parts[GRAPH].replace(b'"target": "torch.ops.aten.from', b'"target" : "torch.ops.aten.from')


ATTACKS = [
    (weight_as_pickle, "says that 'weight' is a pickle"),
    (sample_inputs, "holds other things than tensors"),
    (weights_as_formerly, "'data/weights/model.pt' in it is no part of such a program"),
    (opaque_constant, "opaque_obj_0"),
    (symbolic_size, "expr_str"),
    (symbolic_size_in_other_letters, "u005fstr"),
    (name_of_a_weight, "open("),
    (operator_on_files, "aten.from_file"),
    (operator_behind_a_space, "aten.from_file"),
]


@pytest.fixture(params=ATTACKS, ids=lambda attack: attack[0].__name__)
def attack(request, tmp_path) -> tuple[Path, Path, str]:
    """A harmful program, the file that it would write, and what is to be told."""
    path, written, (attack, told) = tmp_path / "harmful.pt2", tmp_path / "written", request.param
    program.save(torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(1, 3),)), path)
    with zipfile.ZipFile(path) as archive:
        parts = {name.removeprefix("archive/"): archive.read(name) for name in archive.namelist()}
    attack(parts, written)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(f"archive/{name}", content)
    return path, written, told


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("harmless") / "model")


def test_code_in_a_program_is_refused_and_not_run(model, attack, tmp_path):
    path, written, told = attack
    given = (f"model_dir={model}", f"corpus_dir={tmp_path}", f"out={tmp_path / 'out'}", "family=host")
    said = fails("quantize", "quant=int8_pc", f"quant.from_program={path}", *given)
    assert f" {path}: " in said and told in said and "could run code" in said
    assert not written.exists()


def test_the_code_would_have_run(attack):
    """Else the test above could not fail."""
    path, written, _ = attack
    try:
        torch.export.load(path).module()(torch.zeros(1, 3))
    except Exception as error:  # whatever comes after
        print(error)
    assert written.exists()
