"""How plots look: colours, widths, fonts; and a figure as SVG text."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

INK, RULE = "#1f2328", "#9aa0a6"  # text, and lines that only guide
# Okabe and Ito's, and three of Tol's: told apart by all eyes.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#882255", "#44aa99", "#8877cc")
WIDTH_IN = 8.2  # of a figure

STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font, and can be searched
    "text.parse_math": False,  # a name with $ is a name
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9.5,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.alpha": 0.35,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def svg(figure: Figure, name: str, *, background: str = "white") -> str:
    """The plot as SVG text, the same for the same table; `name` keeps the ids of several plots on one page apart."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", facecolor=background, metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", stream.getvalue(), flags=re.DOTALL)
    return text[text.index("<svg") :]
