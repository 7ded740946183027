"""The picture of a parity ladder: a bar for each rung, and the loss along the depth of the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from earshot import plot_style
from earshot.plot_style import COLOURS, INK, RULE, STYLE, WIDTH_IN

NAMES = {"exported": "exported, in floats", "quantized": "quantized program", "integer_graph": "integer graph", "host_pte": "host .pte"}
RUNG_COLOURS = {"exported": COLOURS[6], "quantized": COLOURS[4], "integer_graph": COLOURS[0], "host_pte": COLOURS[0]}
ALL_DB = 60.0  # the end of the axis: nearer than that, nothing is heard of
MOST_LABELS = 44  # modules that are named along the depth; of more, every second, third ...
BAR_IN, DEPTH_IN, LABELS_IN = 0.3, 2.6, 1.5  # heights: of a rung, of the depth, of the names below it


def svg(content: Mapping[str, Any]) -> str:
    """The picture of the content of a parity.json, as SVG text."""
    with matplotlib.rc_context(STYLE):
        return plot_style.svg(_figure(content), "parity")


def _figure(content: Mapping[str, Any]) -> Figure:
    modules = content.get("depth", {}).get("modules", [])
    rungs = {name: one for name, one in content["rungs"].items() if name != "float"}
    heights = [0.9 + BAR_IN * len(rungs), *([DEPTH_IN + LABELS_IN] if modules else [])]
    figure = Figure(figsize=(WIDTH_IN, sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    _rungs(axes[0], rungs, content["rungs"]["float"])
    if modules:
        _depth(axes[1], modules, content["depth"])
    return figure


def _rungs(axes: Axes, rungs: Mapping[str, Mapping[str, Any]], reference: Mapping[str, Any]) -> None:
    for at, (name, one) in enumerate(rungs.items()):
        axes.barh(at, min(one["sqnr_db"], ALL_DB), 0.7, color=RUNG_COLOURS[name])
        said = f"{one['sqnr_db']:.1f} dB, cosine {one['cosine']:.4f}, frames {100 * one['argmax_agreement']:.1f}%"
        axes.annotate(
            said + _wer(one), (max(0.0, min(one["sqnr_db"], ALL_DB)), at), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(range(len(rungs)), [NAMES[name] for name in rungs])
    axes.set_ylim(len(rungs) - 0.4, -0.6)
    axes.set_xlim(0, 1.9 * ALL_DB)
    axes.set_xticks(range(0, int(ALL_DB) + 1, 10))
    axes.set_axisbelow(True)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("SQNR of the logits against the float model, dB", loc="left")
    axes.set_title(f"float model{_wer(reference)}; frames with its most likely output, word error rate", loc="left", fontsize="medium")


def _wer(one: Mapping[str, Any]) -> str:
    """Of the split that was evaluated; of a form that was not, of the ladder's own utterances."""
    if "wer" in one:
        return f", WER {100 * one['wer']:.2f}%"
    return f", WER here {100 * one['wer_here']:.2f}%" if "wer_here" in one else ""


def _depth(axes: Axes, modules: Sequence[Mapping[str, Any]], depth: Mapping[str, Any]) -> None:
    places = range(len(modules))
    for name in ("quantized", "integer_graph"):
        values = [one[f"{name}_sqnr_db"] for one in modules]
        if any(value is not None for value in values):
            heights = [math.nan if value is None else min(value, ALL_DB) for value in values]
            axes.plot(places, heights, color=RUNG_COLOURS[name], linewidth=1.3, marker=".", markersize=4, label=NAMES[name])
    departs = depth["departs"]
    if departs:
        at = next(i for i, one in enumerate(modules) if one["index"] >= departs["index"])
        axes.axvline(at, color=RULE, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            f"departs: {departs['operator']} in {departs['submodule']}",
            (at, 1),
            (3, -3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
            fontsize=7.5,
            color=INK,
        )
    every = math.ceil(len(modules) / MOST_LABELS)
    axes.set_xticks(places[::every], [one["module"] for one in modules[::every]], rotation=90, fontsize=7)
    axes.set_xlim(-0.5, len(modules) - 0.5)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.set_ylabel("SQNR, dB")
    axes.set_title("what each module leaves behind it, against floats", loc="left", fontsize="medium")
    axes.legend(loc="lower left", fontsize=8)
