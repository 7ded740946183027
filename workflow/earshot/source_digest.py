"""Which package files a stage depends on, and their digest: an edit re-runs the rules that it concerns and no others.

Snakemake sees a rule's command, not the imports of the Python that it starts.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parent
NAME = PACKAGE.name
# They say what a value may be, how an error reads and where a result comes from, not what is computed; the values themselves are parameters
# of the rules.
NEUTRAL = {"config", "errors", "provenance", "stages"}


def module_file(module: str) -> Path | None:
    """The file of a dotted module of this package, None for what is no module of it."""
    path = PACKAGE.parent / module.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def own_file(module: str) -> Path:
    """The file of a dotted module that is of this package."""
    file = module_file(module)
    assert file is not None, module
    return file


@functools.cache
def imports(module: str) -> frozenset[str]:
    """The modules of this package that `module` imports, wherever in its file the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(own_file(module).read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in found if name.split(".")[0] == NAME and module_file(name))


@functools.cache
def modules(stage: str) -> tuple[str, ...]:
    """All modules of this package that a stage reaches, itself included."""
    todo, seen = [f"{NAME}.stages.{stage}"], set()
    while todo:
        module = todo.pop()
        if module in seen or module.removeprefix(f"{NAME}.") in NEUTRAL:
            continue
        seen.add(module)
        todo.extend(imports(module))
    return tuple(sorted(seen))


def sources(module: str) -> list[Path]:
    """The files of a module: its own, and of a package the files beside it that are no Python, such as sources in C that it gives away."""
    file = own_file(module)
    beside = sorted(path for path in file.parent.iterdir() if path.is_file() and path.suffix != ".py") if file.stem == "__init__" else []
    return [file, *beside]


@functools.cache
def source_digest(stage: str) -> str:
    """A short digest of the source of all modules that a stage reaches."""
    digest = hashlib.sha256()
    for module in modules(stage):
        digest.update(module.encode() + b"\0" + b"\0".join(path.read_bytes() for path in sources(module)) + b"\0")
    return digest.hexdigest()[:16]


def source_digests() -> dict[str, str]:
    """The digest of each stage."""
    return {path.stem: source_digest(path.stem) for path in sorted((PACKAGE / "stages").glob("[a-z]*.py"))}
