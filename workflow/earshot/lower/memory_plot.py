"""The picture of SRAM over a window: how much of it each layer holds, in the order of execution, and where the peak comes from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Protocol

import matplotlib
from matplotlib.figure import Figure

from earshot import plot_style
from earshot.lower import cycle_plot
from earshot.plot_style import COLOURS, INK, STYLE, WIDTH_IN

CHARACTER = 0.0066  # of the width, about: a module that has no room for its name is not named


class Line(cycle_plot.Line, Protocol):
    """What the picture shows of a layer."""

    @property
    def layer(self) -> str: ...

    @property
    def sram_bytes(self) -> int: ...


def peak(table: Sequence[Line]) -> Line:
    """The first layer that holds the most SRAM."""
    return max(table, key=lambda one: one.sram_bytes)


def svg(table: Sequence[Line], reserved_kib: float) -> str:
    """The picture as SVG text, of the layers in the order of their execution.

    `reserved_kib` is what the device must have: more than is ever in use, since tensors lie where they were put, with gaps between them.
    """
    with matplotlib.rc_context(STYLE):
        return plot_style.svg(_figure(table, reserved_kib), "sram")


def _figure(table: Sequence[Line], reserved_kib: float) -> Figure:
    figure = Figure(figsize=(WIDTH_IN, 2.9), layout="constrained")
    axes = figure.subplots()
    total = sum(one.cycles for one in table)
    ends = [0, *accumulate(one.cycles for one in table)]
    start = 0
    for at, (module, run) in enumerate(groupby(table, key=lambda one: one.module)):
        members = list(run)
        edges = [cycles / 1e6 for cycles in ends[start : start + len(members) + 1]]
        colour = COLOURS[at % len(COLOURS)]
        axes.stairs([one.sram_bytes / 1024 for one in members], edges, fill=True, color=colour, alpha=0.85)
        name = ".".join(module.split(".")[-2:])
        if (edges[-1] - edges[0]) * 1e6 > CHARACTER * len(name) * total:
            middle = (edges[0] + edges[-1]) / 2
            axes.annotate(name, (middle, 0), (0, 4), textcoords="offset points", ha="center", fontsize=6.5, color="white")
        start += len(members)
    highest = peak(table)
    kib, at_cycles = highest.sram_bytes / 1024, ends[list(table).index(highest)] / 1e6
    axes.axhline(reserved_kib, color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
    axes.annotate(
        "reserved", (1, reserved_kib), (-2, 3), xycoords=axes.get_yaxis_transform(), textcoords="offset points", ha="right", fontsize=7.5
    )
    axes.plot(at_cycles, kib, "v", color=INK, markersize=6)
    axes.set_xlim(0, max(total, 1) / 1e6)
    axes.set_ylim(0, 1.15 * max(kib, reserved_kib))
    axes.set_xlabel("cycles since the start of the window, million")
    axes.set_ylabel("SRAM in use, KiB")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    where = f"{highest.module}, {highest.operator} ({highest.layer})"
    axes.set_title(f"{reserved_kib:,.0f} KiB reserved; most in use {kib:,.0f} KiB: {where}", loc="left", fontsize="medium")
    return figure
