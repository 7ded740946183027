"""What an operator of an exported graph is, and which modules of the network it is in."""

from __future__ import annotations

from torch.fx import Node

# They move numbers and compute none: rounding acts at what makes and what uses these.
MOVES = {
    *("view", "_unsafe_view", "reshape", "flatten", "permute", "transpose", "t", "squeeze", "unsqueeze", "expand"),
    *("slice", "select", "cat", "split", "getitem", "clone", "copy"),
}


def kind(node: Node) -> str:
    """The name of an operator: conv2d, mul, quantize_per_tensor ..."""
    return getattr(node.target, "_opname", getattr(node.target, "__name__", str(node.target)))


def paths(node: Node) -> list[str]:
    """The modules that an operator is in, the outermost first, as the quantizers call them."""
    return [path.removeprefix("L['self'].") for path, _ in node.meta.get("nn_module_stack", {}).values() if path != "L['self']"]


def name(path: str) -> str:
    """The name of a module, of what the quantizers call it."""
    return path.replace("slice(None, None, None)", "").removeprefix("network.")  # of a network that is in another: program.Rounded


def module_of(node: Node) -> str:
    """The name of the innermost module that an operator is in; empty where it is in none."""
    within = paths(node)
    return name(within[-1]) if within else ""
