"""Lowering: a quantized program compiled for a target, what the compiler reports of it, and how this machine runs the result."""
