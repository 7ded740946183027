"""The picture of a cycle report: a bar for each module, coloured by the kind of operator, with its floors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from earshot import plot_style
from earshot.plot_style import COLOURS, INK, STYLE, WIDTH_IN

MOST_BARS = 40  # with more, the blocks of the model are added up
Figures = Mapping[str, Mapping[str, float]]
BAR_IN, FRAME_IN = 0.2, 1.9  # height of a bar; of title, legend and axis together


class Line(Protocol):
    """What the picture shows of a layer."""

    @property
    def module(self) -> str: ...

    @property
    def operator(self) -> str: ...

    @property
    def cycles(self) -> int: ...


def svg(table: Sequence[Line], modules: Sequence[str], figures: Figures, total: Mapping[str, float]) -> str:
    """The picture as SVG text.

    Args:
        table: the layers.
        modules: the modules, from the input of the network to its output.
        figures: `mac_floor_cycles` and `flash_floor_cycles` by module.
        total: the same of the network, and `cycles` and `mac_utilisation`.
    """
    with matplotlib.rc_context(STYLE):
        return plot_style.svg(_figure(table, modules, figures, total), "cycles")


def _figure(
    table: Sequence[Line], modules: Sequence[str], figures: Mapping[str, Mapping[str, float]], total: Mapping[str, float]
) -> Figure:
    labels = {name: name for name in modules} if len(modules) <= MOST_BARS else _of_all_blocks(modules)
    rows = list(dict.fromkeys(labels[name] for name in modules))
    bars: dict[str, Counter[str]] = {row: Counter() for row in rows}
    kinds: Counter[str] = Counter()
    for one in table:
        bars[labels[one.module]][one.operator] += one.cycles
        kinds[one.operator] += one.cycles
    shown = [kind for kind, cycles in kinds.most_common(len(COLOURS) - 1) if cycles]
    colours = {**dict(zip(shown, COLOURS, strict=False)), "other": COLOURS[-1]}

    figure = Figure(figsize=(WIDTH_IN, FRAME_IN + BAR_IN * len(rows)), layout="constrained")
    axes = figure.subplots()
    for at, row in enumerate(rows):
        left = 0
        for kind, colour in colours.items():
            width = bars[row][kind] if kind != "other" else sum(bars[row].values()) - left
            if width:
                axes.barh(at, width, 0.8, left, color=colour)
            left += width
        for what, style in (("mac_floor_cycles", "-"), ("flash_floor_cycles", (0, (1.5, 1)))):
            floor = sum(figures[name][what] for name in modules if labels[name] == row)
            if floor:
                ends = [floor, floor], [at - 0.48, at + 0.48]
                axes.plot(*ends, color="white", linewidth=3.2, solid_capstyle="butt")
                axes.plot(*ends, color=INK, linewidth=1.4, linestyle=style, solid_capstyle="butt")
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cycles, _: f"{cycles / 1e6:g}"))
    axes.set_xlabel("cycles, million")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_title(
        f"{total['cycles'] / 1e6:.2f} million cycles, {100 * total['mac_utilisation']:.0f}% of the MAC rate\n"
        f"floors: {total['mac_floor_cycles'] / 1e6:.2f} for the MACs, {total['flash_floor_cycles'] / 1e6:.2f} for the weights, read once",
        loc="left",
        fontsize="medium",
    )
    used = [kind for kind in colours if kind != "other" or set(+kinds) - set(shown)]
    handles: list[Patch | Line2D] = [Patch(color=colours[kind], label=kind) for kind in used]
    handles += [
        Line2D([], [], color=INK, linewidth=1.4, label="floor: MACs"),
        Line2D([], [], color=INK, linewidth=1.4, linestyle=(0, (1.5, 1)), label="floor: weights"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=6, handlelength=1.2, fontsize=8)
    return figure


def _of_all_blocks(modules: Sequence[str]) -> dict[str, str]:
    """Modules to labels that join the modules of the same name in all blocks: blocks.0.norm and blocks.1.norm to blocks.*.norm (2)."""
    joined = {name: re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name) for name in modules}
    count = Counter(joined.values())
    return {name: label if count[label] == 1 else f"{label} ({count[label]})" for name, label in joined.items()}
