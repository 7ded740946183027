"""The heat map of a sensitivity table: a row for each part of the network and each kind of operator, a column for each scheme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from earshot import plot_style
from earshot.plot_style import INK, STYLE, WIDTH_IN

ROW_IN, FRAME_IN = 0.21, 1.3  # height of a row; of title and headings
COLOURS = "YlOrRd"
ROOT = 0.4  # exponent of the colours: a few units cost most
DARK = 0.6  # of the colours, from here on the text is white


class Row(Protocol):
    """What the picture shows of a line of the table."""

    @property
    def scheme(self) -> str: ...

    @property
    def by(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def case(self) -> str: ...

    @property
    def noise(self) -> float: ...

    @property
    def sqnr_db(self) -> float | None: ...

    @property
    def loss_change(self) -> float: ...

    @property
    def wer_change(self) -> float | None: ...


Cell = tuple[float, str]  # what gives the colour, the text
# Heading, case, cell of a row.
PANELS: tuple[tuple[str, str, Callable[[Row], Cell]], ...] = (
    ("quantized alone:\nSQNR, dB", "alone", lambda row: (row.noise, "" if row.sqnr_db is None else f"{row.sqnr_db:.0f}")),
    ("quantized alone:\nloss, millinats a piece", "alone", lambda row: (max(0.0, row.loss_change), _thousandths(row.loss_change))),
    ("quantized alone:\nWER on dev, points", "alone", lambda row: _points(row.wer_change)),
    ("left in floats:\nloss it gives back", "spared", lambda row: (max(0.0, row.loss_change), _thousandths(row.loss_change))),
)


def _points(change: float | None) -> Cell:
    return (0.0, "") if change is None else (max(0.0, change), f"{100 * change:.1f}".replace("-0.0", "0.0"))


def _thousandths(value: float) -> str:
    return f"{1000 * value:.1f}".replace("-0.0", "0.0")


def svg(table: Sequence[Row]) -> str:
    """The picture as SVG text."""
    with matplotlib.rc_context(STYLE):
        return plot_style.svg(_figure(table), "sensitivity")


def _figure(table: Sequence[Row]) -> Figure:
    units = list(dict.fromkeys((row.by, row.unit) for row in table))
    schemes = list(dict.fromkeys(row.scheme for row in table))
    figure = Figure(figsize=(WIDTH_IN, FRAME_IN + ROW_IN * len(units)), layout="constrained")
    for i, (axes, (heading, case, cell)) in enumerate(zip(figure.subplots(1, len(PANELS), sharey=True), PANELS, strict=True)):
        cells = {(row.by, row.unit, row.scheme): cell(row) for row in table if row.case == case}
        _panel(axes, [[cells.get((*unit, scheme)) for scheme in schemes] for unit in units])
        axes.set_title(heading, fontsize=8.5, loc="left")
        axes.set_xticks(range(len(schemes)), schemes, fontsize=8)
        axes.xaxis.tick_top()
        kinds = [unit for unit in units if unit[0] == units[0][0]]
        axes.axhline(len(kinds) - 0.5, color=INK, linewidth=1.2)
        if i == 0:
            axes.set_yticks(range(len(units)), [unit for _, unit in units], fontsize=8)
    return figure


def _panel(axes: Axes, cells: Sequence[Sequence[Cell | None]]) -> None:
    values = [[one[0] if one else float("nan") for one in line] for line in cells]
    known = [value for line in values for value in line if value == value]
    norm = PowerNorm(ROOT, 0.0, max(known, default=0.0) or 1.0)
    axes.imshow(values, aspect="auto", cmap=COLOURS, norm=norm, interpolation="nearest")
    for y, line in enumerate(cells):
        for x, one in enumerate(line):
            if one:
                colour = "white" if norm(one[0]) > DARK else INK
                axes.text(x, y, one[1], ha="center", va="center", fontsize=7.5, color=colour)
    for side in axes.spines.values():
        side.set_visible(False)
