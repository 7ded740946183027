"""The .pte around an NPU's part: made once with a TOSA graph, completed for each target that the graph is compiled for."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from typing import Any

from executorch.exir import ExecutorchBackendConfig, schema
from executorch.exir._serialize._program import PTEFile, serialize_pte_binary
from executorch.exir.backend.compile_spec_schema import CompileSpec

TEMPLATE = "program.json"


def template(program: schema.Program) -> dict[str, Any]:
    """A program of ExecuTorch whose one delegate has no content yet, as a JSON object."""
    plan = program.execution_plan[0]
    (delegate,) = plan.delegates
    plan = dataclasses.replace(plan, delegates=[dataclasses.replace(delegate, compile_specs=[])])
    content = [schema.BackendDelegateInlineData(data=b"")]
    return _to_json(dataclasses.replace(program, execution_plan=[plan], backend_delegate_data=content))


def complete(template: dict[str, Any], backend: str, compile_specs: Sequence[CompileSpec], content: bytes) -> bytes:
    """The .pte: `template` with the content that `backend` made with `compile_specs`.

    It is what ExecuTorch writes for a program that was lowered to this backend from the start, byte for byte (tests/unit/test_lower.py).
    """
    program: schema.Program = _from_json(template)
    (delegate,) = program.execution_plan[0].delegates
    delegate.id, delegate.compile_specs = backend, list(compile_specs)
    program.backend_delegate_data[delegate.processed.index].data = content
    config = ExecutorchBackendConfig()
    return bytes(
        serialize_pte_binary(
            PTEFile(program),
            extract_delegate_segments=config.extract_delegate_segments,
            segment_alignment=config.segment_alignment,
            constant_tensor_alignment=config.constant_tensor_alignment,
            delegate_alignment=config.delegate_alignment,
        )
    )


def _to_json(value: Any) -> Any:
    """Objects of executorch.exir.schema with their class, bytes in base 64; numbers, texts and lists as they are."""
    if dataclasses.is_dataclass(value):
        return {"class": type(value).__name__, **{f.name: _to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}}
    if isinstance(value, bytes):
        return {"class": "bytes", "base64": base64.b64encode(value).decode()}
    return [_to_json(item) for item in value] if isinstance(value, list) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value["class"] == "bytes":
        return base64.b64decode(value["base64"])
    return getattr(schema, value["class"])(**{key: _from_json(item) for key, item in value.items() if key != "class"})
