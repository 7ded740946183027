"""Whether a saved program can be loaded without running code that somebody put into it.

PyTorch unpickles whatever an archive marks as pickled, evaluates symbolic sizes, looks operators up by any path within `torch`, and
writes names into Python code that it runs. Programs of this workflow, and others of static shapes, need none of it: what they hold
is allowed, the rest refused.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.export.pt2_archive._package import PT2ArchiveReader

from earshot.errors import ArtifactError

GRAPH, SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = {"data/weights/model_weights_config.json": "weight_", "data/constants/model_constants_config.json": "tensor_"}
TENSORS, OTHERS = r"data/(weights/weight|constants/tensor)_\d+", r"archive_(format|version)|byteorder|(\.data|extra)/.*"
ALLOWED = re.compile("|".join([*map(re.escape, (GRAPH, SAMPLES, *CONFIGS)), TENSORS, OTHERS]))

# Strings of the graph: texts that only describe, trees of tuples, operators (`from_file` could write files), else names.
_TEXT = rb'"(?:stack_trace|nn_module_stack|torch_fn|from_node|source_fn_stack|custom|as_string|torch_version)": "(?:[^"\\]|\\.)*+"'
_TREE = rb'"(?:in|out)_spec": "(?:\\"(?:type|context|children_spec|builtins\.(?:tuple|list|dict)|null|\[\])\\"|null|[\d\s\[\]{}:,])*+"'
_OPERATOR = rb'"target": "torch\.ops\.(?:aten|quantized_decomposed)\.(?!__|from_file)\w++\.(?!__)\w++"'
_NAME = rb'"(?!(?:target|as_operator|expr_str)"\s*:)[\w.]*+"'
_HARMLESS = re.compile(rb'(?:[^"]++|%b)*+' % b"|".join([_TEXT, _TREE, _OPERATOR, _NAME]))


def check(path: Path) -> None:
    """
    Raises:
        ArtifactError: loading the program, or running it, could run code.
    """
    with PT2ArchiveReader(str(path)) as archive:  # which PyTorch loads it with: another might see other entries
        for entry, reason in _suspicious(archive):
            remedy = "give a program that quantize made, or save it with torch.export.save, of plain tensors and static shapes"
            raise ArtifactError(f"{path}: {entry} in it {reason}, and could run code when it is loaded; {remedy}")


def _suspicious(archive: PT2ArchiveReader) -> Iterator[tuple[str, str]]:
    for entry in archive.get_file_names():
        if not ALLOWED.fullmatch(entry):
            yield repr(entry), "is no part of such a program"
    for entry, prefix in CONFIGS.items():
        for name, payload in json.loads(archive.read_string(entry))["config"].items():
            if payload["use_pickle"] or not payload["path_name"].startswith(prefix):
                yield entry, f"says that {name!r} is a pickle or an object"
    try:
        torch.load(io.BytesIO(archive.read_bytes(SAMPLES)), weights_only=True)
    except Exception:  # PyTorch would try again, and run what is in there
        yield SAMPLES, "holds other things than tensors"
    if rest := _HARMLESS.sub(b"", archive.read_bytes(GRAPH), count=1):
        yield GRAPH, f"holds {rest[:60].decode(errors='replace')!r}"
