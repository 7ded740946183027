"""pareto.html: word error rate against latency, SRAM, flash and program size, to be zoomed and asked; MLflow shows it as an artifact."""

from __future__ import annotations

import html
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from earshot.naming import variant_names
from earshot.plot_style import COLOURS, RULE
from earshot.report import Row, latency_ms, millions, number, percent
from earshot.report_plots import LATENCY, MEMORY, front

COLUMNS = 2
PANEL_PX = 420
# Marker of a target, by its place among the sorted ones.
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")


def page(title: str, table: Sequence[Row]) -> str:
    """The page as HTML that needs nothing from elsewhere; a panel for each quantity that a variant has."""
    shown = [one for one in table if one["status"] != "failed" and "wer" in one]
    panels = [(quantity, [one for one in shown if quantity[0] in one]) for quantity in (*LATENCY, *MEMORY)]
    panels = [(quantity, having) for quantity, having in panels if having]
    if not panels:
        return f"<!doctype html><title>{html.escape(title)}</title><p>No variant has these figures.</p>"
    return _figure(title, panels).to_html(include_plotlyjs=True, full_html=True)


def _figure(title: str, panels: Sequence[tuple[tuple[str, str, str], Sequence[Row]]]) -> go.Figure:
    rows = -(-len(panels) // COLUMNS)
    titles = [f"{label}<br><sup>{source}</sup>" for (_, source, label), _ in panels]
    figure = make_subplots(rows, COLUMNS, subplot_titles=titles, vertical_spacing=0.4 / rows, horizontal_spacing=0.09)
    every = [one for _, having in panels for one in having]
    names, targets = variant_names(one["variant"] for one in every), sorted({one["target"] for one in every})
    schemes = list(dict.fromkeys(names[one["variant"]].rpartition("/")[0] for one in every))
    told: set[str] = set()
    for at, ((key, _, label), having) in enumerate(panels):
        place = {"row": at // COLUMNS + 1, "col": at % COLUMNS + 1}
        best = front([(one[key], one) for one in having])
        line = {"color": RULE, "width": 1.5, "shape": "hv"}
        xs, ys = [x for x, _ in best], [100 * one["wer"] for _, one in best]
        figure.add_trace(go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", showlegend=False), **place)
        for one in having:
            scheme = names[one["variant"]].rpartition("/")[0]
            entry = html.escape(names[one["variant"]])
            figure.add_trace(
                go.Scatter(
                    x=[one[key]],
                    y=[100 * one["wer"]],
                    error_y=_interval(one),
                    mode="markers",
                    marker={
                        "size": 11,
                        "color": COLOURS[schemes.index(scheme) % len(COLOURS)],
                        "symbol": SYMBOLS[targets.index(one["target"]) % len(SYMBOLS)],
                        "line": {"color": "white", "width": 1},
                    },
                    name=entry,
                    legendgroup=entry,  # a click on it hides the variant in all panels
                    showlegend=entry not in told,
                    text=[_told(one)],
                    hovertemplate="%{text}<extra></extra>",
                ),
                **place,
            )
            told.add(entry)
        figure.update_xaxes(title_text=label, **place)
        figure.update_yaxes(title_text="word error rate, %", **place)
    figure.update_layout(title=html.escape(title), height=PANEL_PX * rows + 120, template="plotly_white", legend={"title": "variant"})
    return figure


def _interval(one: Row) -> dict | None:
    if "wer_ci95_low" not in one:
        return None
    ends = {"array": [100 * (one["wer_ci95_high"] - one["wer"])], "arrayminus": [100 * (one["wer"] - one["wer_ci95_low"])]}
    return {"type": "data", "symmetric": False, "thickness": 1, "width": 3, **ends}


def _told(one: Row) -> str:
    """What is shown where the mouse points."""
    lines = [
        ("WER", f"{percent(one['wer'])} %"),
        ("float", percent(one.get("wer_float")) and f"{percent(one.get('wer_float'))} %"),
        ("quantized", percent(one.get("wer_quantized")) and f"{percent(one.get('wer_quantized'))} %"),
        ("latency", number(latency_ms(one)) and f"{number(latency_ms(one))} ms"),
        ("cycles", millions(one.get("npu_cycles")) and f"{millions(one.get('npu_cycles'))} M"),
        ("SRAM", number(one.get("sram_kib")) and f"{number(one.get('sram_kib'))} KiB"),
        ("flash", number(one.get("flash_kib")) and f"{number(one.get('flash_kib'))} KiB"),
        ("program", number(one.get("pte_kib")) and f"{number(one.get('pte_kib'))} KiB"),
    ]
    return "<br>".join([f"<b>{html.escape(one['variant'])}</b>", *(f"{name}: {value}" for name, value in lines if value)])
