"""Doing only the work that counts while programs are traced, rewritten and lowered.

ExecuTorch's passes run a program of some thousand nodes a hundred times over. Much of that time goes to bookkeeping that no result
depends on; within `lean_tracing` it is left out. What is lowered is the same to the byte (tests/unit/test_lower.py compares).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import linecache
import logging
import typing
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._export.serde import serialize, union
from torch._library import utils as library_utils
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.traceback import NodeSource
from torch.nn import Module
from torchao.quantization.pt2e import utils as torchao_utils

from earshot.quantize.decomposing import needed_decompositions
from earshot.quantize.lookups import indexed_signatures, whole_partitions
from earshot.quantize.replacing import replaced

_prepare = importlib.import_module("torch.ao.quantization.fx.prepare")  # its package has a function of that name
_recompile = GraphModule.recompile
_is_builtin = library_utils.is_builtin
_COMPILED = ("_code", "_lineno_map", "_prologue_start")  # what recompile leaves in a module besides `forward`
_PURE_NAMESPACES = ("tosa", "quantized_decomposed")  # operators whose output's shape and type follow from their arguments alone


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the notices of the export machinery, which name nothing that a user could change."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def brief_archives() -> Iterator[None]:
    """Save and read programs in half the time.

    - The annotations and the fields of some forty classes, which are asked for with each of hundreds of thousands of objects, are looked
      up once.
    - Before a program is saved no canonical form is made of a copy, which is thrown away.
    - The garbage collector looks through these objects less often.
    """
    evaluate, known = typing.get_type_hints, dict[tuple, tuple]()
    listed = functools.cache(dataclasses.fields)

    def hints(of: Any, globalns: dict | None = None, localns: dict | None = None, include_extras: bool = False) -> dict:
        key = (of, id(globalns), id(localns), include_extras)
        if key not in known:
            known[key] = evaluate(of, globalns, localns, include_extras), globalns, localns  # kept, so that an id stays theirs
        return known[key][0]

    def fields(of: Any) -> tuple[dataclasses.Field, ...]:
        return listed(of if isinstance(of, type) else type(of))

    changes = [(typing, "get_type_hints", hints), (dataclasses, "fields", fields), (union, "fields", fields)]
    changes += [(serialize, "canonicalize", lambda program, constants=None: program)]
    with _rare_collections(), contextlib.ExitStack() as stack:
        for change in changes:
            stack.enter_context(replaced(*change))
        yield


@contextlib.contextmanager
def lean_tracing(compiles: bool = False) -> Iterator[None]:
    """Make the passes within the block quick. `compiles`: the block runs the Python code of graph modules, as torch.export does.

    - The provenance of a node (which node of which earlier graph it came from) is never changed, so copies of it are shared.
    - A graph module's Python code is generated when it is asked for, not after each pass: passes interpret the graph (unless `compiles`).
    - Shapes and types that the TOSA and quantization operators give are remembered as those of PyTorch's own operators are; passes look
      them up.
    - The garbage collector looks through the many live objects less often.
    - The number in the name of a new attribute, of an observer for example, is looked for behind the last one, not from 0 on.
    - Passes note the line of code that made a node; that the file has not changed on disk since it was read is not looked up each time.
    """
    from earshot.quantize.retracing import remembered_results  # with all of executorch.exir, which reading a program does without

    shortcuts = [_shared_provenance, _remembered_shapes, _rare_collections, _unchanged_sources, _counted_names]
    shortcuts += [remembered_results, needed_decompositions, indexed_signatures]
    with contextlib.ExitStack() as stack:
        for change in (*shortcuts, whole_partitions, *(() if compiles else (_late_code,))):
            stack.enter_context(change())
        yield


@contextlib.contextmanager
def _shared_provenance() -> Iterator[None]:
    with replaced(NodeSource, "__deepcopy__", lambda self, memo: self):
        yield


class _Late:
    """An attribute that `recompile` sets: generates the code when it is first read."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, module: GraphModule | None, owner: type) -> Any:
        if module is None:
            return self
        _recompile(module)
        return module.__dict__[self.name]


def _mark_for_recompile(self: GraphModule) -> None:
    if isinstance(self._graph._codegen, _PyTreeCodeGen):
        self._in_spec = self._graph._codegen.pytree_info.in_spec
        self._out_spec = self._graph._codegen.pytree_info.out_spec
    for name in _COMPILED:
        self.__dict__.pop(name, None)
    type(self).forward = _late_forward


def _late_forward(self: GraphModule, *args: Any, **kwargs: Any) -> Any:
    _recompile(self)
    return self.forward(*args, **kwargs)


@contextlib.contextmanager
def _late_code() -> Iterator[None]:
    # The descriptors stay: a module made within the block may be asked for its code after it.
    for name in _COMPILED:
        setattr(GraphModule, name, _Late(name))
    with replaced(GraphModule, "recompile", _mark_for_recompile):
        yield


def _builtin_or_pure(op: torch._ops.OpOverload) -> bool:
    return _is_builtin(op) or op.namespace in _PURE_NAMESPACES


@contextlib.contextmanager
def _remembered_shapes() -> Iterator[None]:
    # Checks of a TOSA operator depend on the target's operator set: nothing is remembered from one lowering to the next.
    FakeTensorMode.cache_clear()
    try:
        with replaced(library_utils, "is_builtin", _builtin_or_pure):
            yield
    finally:
        FakeTensorMode.cache_clear()


@contextlib.contextmanager
def _unchanged_sources() -> Iterator[None]:
    linecache.checkcache()
    with replaced(linecache, "checkcache", lambda filename=None: None):
        yield


@contextlib.contextmanager
def _counted_names() -> Iterator[None]:
    last: weakref.WeakKeyDictionary[Module, dict[str, int]] = weakref.WeakKeyDictionary()

    def naming(prefix: str) -> Callable[[Module], str]:
        prefix = prefix.replace(".", "_")

        def name(module: Module) -> str:
            of_module = last.setdefault(module, {})
            number = of_module.get(prefix, 0)
            while hasattr(module, f"{prefix}{number}"):
                number += 1
            of_module[prefix] = number
            return f"{prefix}{number}"

        return name

    with contextlib.ExitStack() as stack:
        for owner in (_prepare, torchao_utils):
            stack.enter_context(replaced(owner, "get_new_attr_name_with_prefix", naming))
        yield


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
