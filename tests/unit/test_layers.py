"""Who may import whom within the package, as docs/architecture.md draws it."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter

import pytest

from earshot.source_digest import NAME, PACKAGE, module_file

MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for path in sorted(PACKAGE.rglob("*.py"))
]
# The folders of the package, and the folders that each may reach, by modules between them too.
LAYERS = {
    "config": set(),
    "corpus": {"config"},
    "model": {"config"},
    "train": {"config", "corpus", "model"},
    "quantize": {"config", "corpus", "model"},
    "lower": {"config", "corpus", "model", "quantize"},
    "export": {"config", "corpus", "model", "quantize", "lower"},
    "parity": {"config", "corpus", "model", "quantize", "lower"},
    "search": {"config", "corpus", "model", "quantize", "lower"},
}


@cache
def imported(module: str) -> frozenset[str]:
    """The modules whose code `module` uses: of `from package import module`, the module and not its package."""
    found = set()
    for node in ast.walk(ast.parse(module_file(module).read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import, which the digest of a stage does not follow"
            found.update(whole if module_file(whole := f"{node.module}.{alias.name}") else node.module for alias in node.names)
    return frozenset(name for name in found if name.split(".")[0] == NAME and module_file(name))


def reached(module: str) -> set[str]:
    todo, seen = [module], set()
    while todo:
        todo += imported(one := todo.pop()) - seen
        seen.add(one)
    return seen


def test_no_imports_go_in_a_circle():
    list(TopologicalSorter({module: imported(module) for module in MODULES}).static_order())


def test_no_module_imports_a_stage():
    found = {(module, one) for module in MODULES for one in imported(module) if one.startswith(f"{NAME}.stages.")}
    assert not found


def test_every_folder_has_a_layer():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == {*LAYERS, "stages"}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_reaches_only_those_below_it(layer):
    for module in MODULES:
        if module.split(".")[1:2] == [layer]:
            folders = {one.split(".")[1] for one in reached(module) if len(one.split(".")) > 1 and one.split(".")[1] in {*LAYERS, "stages"}}
            assert folders - {layer} <= LAYERS[layer], f"{module} reaches {folders - {layer} - LAYERS[layer]}"
