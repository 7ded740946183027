"""Lowering: a quantized program compiled for a target, what the compiler reports of it, and how this machine runs the result."""

import earshot.quantize  # noqa: F401 (silences notices of torch on import, which name nothing a user could change)
