"""What a parity ladder says, in Markdown that reads well in a terminal too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEAD = ("form", "SQNR dB", "cosine", "frames %", "step SQNR dB", "WER here %", "WER %")
TIE = 1  # steps: what an operator departs that only rounds a half to the other side


def markdown(content: Mapping[str, Any]) -> str:
    """The table of the rungs of a parity.json, and where along the depth precision is lost."""
    lines = [HEAD, *(_cells(name, one) for name, one in content["rungs"].items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    rows = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    rows.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*rows, *_depth(content.get("depth"))]) + "\n"


def _cells(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    rates = [f"{100 * one[key]:.2f}" if key in one else "" for key in ("wer_here", "wer")]
    if "sqnr_db" not in one:
        return name, "", "", "", "", *rates
    return (
        name,
        f"{one['sqnr_db']:.1f}",
        f"{one['cosine']:.5f}",
        f"{100 * one['argmax_agreement']:.2f}",
        f"{one['step']['sqnr_db']:.1f}",
        *rates,
    )


def _depth(depth: Mapping[str, Any] | None) -> list[str]:
    if depth is None or not depth["counterparts"]:
        return []
    alone = {name: one for name, one in depth["operators"].items() if one["most_steps"] > TIE}
    told = ", ".join(f"{name} up to {one['most_steps']} steps ({one['worst_sqnr_db']:.0f} dB)" for name, one in alone.items())
    departs = depth["departs"]
    where = "nowhere along the depth"
    if departs:
        where = (
            f"first at {departs['operator']} in {departs['submodule']}: "
            f"{departs['integer_graph_sqnr_db']:.1f} dB instead of {departs['quantized_sqnr_db']:.1f}; "
            f"what departs most up to there is {departs['cause']['operator']} in {departs['cause']['submodule']}"
        )
    return [
        "",
        f"The integer graph falls behind the quantized program {where}.",
        f"Operators that by themselves, of the same integers, give something else by more than a step: {told or 'none'}.",
    ]
