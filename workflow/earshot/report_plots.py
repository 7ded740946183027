"""The plots of the report, as SVG: word error rates by form of the model, and against latency and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from earshot.naming import variant_names
from earshot.plot_style import COLOURS, INK, RULE, STYLE, WIDTH_IN
from earshot.report import Row

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
FORMS = (("float", "wer_float", "#9aa0a6"), ("quantized", "wer_quantized", "#56b4e9"), ("on the device", "wer", "#0072b2"))
LINE_IN, CHARACTER_IN = 0.19, 0.078  # of a line of text, of a character in it
# What WER is drawn against: its column, where that comes from, what it is.
Quantity = tuple[str, str, str]
LATENCY: tuple[Quantity, ...] = (
    ("npu_latency_ms", "Ethos-U, Vela's estimate", "latency of a window, ms"),
    ("host_latency_ms_p50", "host, one thread, measured", "median latency of a window, ms"),
)
MEMORY: tuple[Quantity, ...] = (
    ("sram_kib", "Ethos-U, Vela's report", "SRAM, KiB"),
    ("flash_kib", "Ethos-U, Vela's report", "flash, KiB"),
    ("pte_kib", "all targets", "program file, KiB"),
)
MOST_LEGEND = 24  # entries of a legend
MOST_BARS = 40  # variants in the plot of the forms: the best ones


def all_plots(table: Sequence[Row]) -> dict[str, Figure]:
    """The plots by the names of their files."""
    done = [one for one in table if one["status"] != "failed"]
    with matplotlib.rc_context(STYLE):
        return {"wer_by_form": wer_by_form(done), "wer_latency": wer_latency(done), "wer_memory": wer_memory(done)}


def wer_by_form(table: Sequence[Row]) -> Figure:
    """Bars of the WER of each form of the model, a group per variant, with the 95% interval of what runs on the device."""
    shown = [one for one in table if any(key in one for _, key, _ in FORMS)][:MOST_BARS]
    figure = Figure(figsize=(WIDTH_IN, 1.1 + 0.52 * max(len(shown), 2)), layout="constrained")
    axes = figure.subplots()
    if not shown:
        return _empty(figure, axes)
    height, names = 0.26, variant_names(one["variant"] for one in shown)
    for rank, (label, key, colour) in enumerate(FORMS):
        having = [(at, one) for at, one in enumerate(shown) if key in one]
        places, values = [at + (rank - 1) * height for at, _ in having], [100 * one[key] for _, one in having]
        axes.barh(places, values, height * 0.9, color=colour, label=label)
        for (_, one), place, value in zip(having, places, values, strict=True):
            end = 100 * one["wer_ci95_high"] if key == "wer" and "wer_ci95_high" in one else value
            axes.annotate(f"{value:.1f}", (end, place), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
            if key == "wer" and "wer_ci95_low" in one:
                axes.plot([100 * one["wer_ci95_low"], end], [place, place], color=INK, linewidth=1.1, solid_capstyle="butt")
    axes.set_yticks(range(len(shown)), [names[one["variant"]] for one in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("word error rate, % (line: 95% interval)")
    figure.legend(loc="outside upper left", ncols=3, handlelength=1.2)
    return figure


def wer_latency(table: Sequence[Row]) -> Figure:
    """WER against the latency of one window: Ethos-U and host apart, since one is estimated and the other measured."""
    return _scatter(_panels(table, LATENCY))


def wer_memory(table: Sequence[Row]) -> Figure:
    """WER against the memories of Ethos-U targets, and against the bytes of the program of all."""
    return _scatter(_panels(table, MEMORY))


def _panels(table: Sequence[Row], quantities: Sequence[Quantity]) -> list[tuple[str, str, list[tuple[float, Row]]]]:
    """Title, label and points of each quantity that a variant has."""
    having = [(title, label, [(one[key], one) for one in table if key in one and "wer" in one]) for key, title, label in quantities]
    return [panel for panel in having if panel[2]]


def _scatter(panels: list[tuple[str, str, list[tuple[float, Row]]]]) -> Figure:
    """WER against a quantity, a panel each; colour is the scheme, shape the target; a line joins what nothing beats in both."""
    figure = Figure(figsize=(WIDTH_IN, 3.8), layout="constrained")
    if not panels:
        return _empty(figure, figure.subplots())
    every = [one for *_, points in panels for _, one in points]
    names = variant_names(one["variant"] for one in every)
    group_of = {one["variant"]: names[one["variant"]].rpartition("/")[0] for one in every}
    groups = list(dict.fromkeys(group_of.values()))
    targets = sorted({one["target"] for one in every})
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(groups)}
    shapes = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(targets)}
    for axes, (title, label, points) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        best = front(points)
        axes.plot([x for x, _ in best], [100 * one["wer"] for _, one in best], color=RULE, linewidth=1, drawstyle="steps-post", zorder=1)
        for x, one in points:
            y, colour = 100 * one["wer"], colours[group_of[one["variant"]]]
            if "wer_ci95_low" in one:
                axes.plot(
                    [x, x], [100 * one["wer_ci95_low"], 100 * one["wer_ci95_high"]], color=colour, alpha=0.45, linewidth=1.2, zorder=2
                )
            axes.plot(x, y, shapes[one["target"]], color=colour, markersize=7, markeredgecolor="white", markeredgewidth=0.7, zorder=3)
        if len({x for x, _ in points}) > 1 and max(x for x, _ in points) > 8 * min(x for x, _ in points) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        else:
            axes.margins(x=0.15)
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(True)
        axes.set_axisbelow(True)
        axes.set_xlabel(label)
        axes.set_title(title, loc="left", fontsize="medium")
    figure.axes[0].set_ylabel("word error rate, %")
    handles = [Line2D([], [], linestyle="", marker="o", color=colours[name], label=name) for name in groups]
    handles += [Line2D([], [], linestyle="", marker=shapes[name], color=RULE, label=name) for name in targets]
    handles = handles[:MOST_LEGEND]
    columns = max(1, int(WIDTH_IN / (CHARACTER_IN * (max(len(str(handle.get_label())) for handle in handles) + 5))))
    figure.set_figheight(3.8 + LINE_IN * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, handletextpad=0.3)
    return figure


def front(points: list[tuple[float, Row]]) -> list[tuple[float, Row]]:
    """The points that no other one beats in both, from the smallest x on."""
    best: list[tuple[float, Row]] = []
    for x, one in sorted(points, key=lambda point: (point[0], point[1]["wer"])):
        if not best or one["wer"] < best[-1][1]["wer"]:
            best.append((x, one))
    return best


def _empty(figure: Figure, axes: Axes) -> Figure:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "no variant has these figures", ha="center", va="center", color=INK, transform=axes.transAxes)
    return figure
