"""report.html: tables and plots on one static page, without scripts or anything from elsewhere."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Mapping, Sequence

from earshot.plot_style import INK
from earshot.report import Row, latency_ms, millions, number, percent

CAPTIONS = {
    "wer_by_form": ("Word error rate by form of the model", "The float model, the quantized program, and what runs on the device."),
    "wer_latency": ("Word error rate against latency", "One window through the network. The line joins variants that none beats in both."),
    "wer_memory": (
        "Word error rate against memory",
        "SRAM and flash that the Ethos-U needs for model and activations, as Vela reports them.",
    ),
}

MOST_PICTURES = 600_000  # bytes of cycle reports on the page: Snakemake's report shows no page above 1.5 MB

# Heading, unit, explanation, cell.
COLUMNS: tuple[tuple[str, str, str, Callable[[Row], str]], ...] = (
    ("WER", "%", "word error rate of what runs on the device: integer graph (Ethos-U) or .pte (host)", lambda one: percent(one.get("wer"))),
    ("95% interval", "%", "bootstrap over utterances", lambda one: _interval(one)),
    ("CER", "%", "character error rate", lambda one: percent(one.get("cer"))),
    ("S / D / I", "words", "substitutions, deletions, insertions", lambda one: _errors(one)),
    ("float", "%", "WER of the float model", lambda one: percent(one.get("wer_float"))),
    ("quantized", "%", "WER of the quantized program, before lowering", lambda one: percent(one.get("wer_quantized"))),
    ("latency", "ms", "of one window: Vela's estimate on Ethos-U, measured median on the host", lambda one: number(latency_ms(one))),
    (
        "RTF",
        "",
        "processing time per time of audio: Ethos-U, or one thread of the host",
        lambda one: number(one.get("npu_rtf", one.get("rtf_1_thread"))),
    ),
    ("cycles", "M", "NPU cycles of one window", lambda one: millions(one.get("npu_cycles"))),
    ("SRAM", "KiB", "", lambda one: number(one.get("sram_kib"))),
    ("flash", "KiB", "", lambda one: number(one.get("flash_kib"))),
    ("CPU ops", "", "operators that stay on the CPU", lambda one: number(one.get("operators_cpu"))),
    (".pte", "KiB", "", lambda one: number(one.get("pte_kib"))),
)

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --rule: #d0d7de; --page: #ffffff; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4af; --rule: #3a424b; --page: #16191d; --bad: #ff8f85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 80rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.8rem 0 .3rem; }
p { margin: .2rem 0 1rem; max-width: 44rem; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .34rem .5rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--ink); }
th small { display: block; font-weight: 400; color: var(--soft); }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; }
td.main { font-weight: 600; }
tr.over td { color: var(--soft); }
table.bad td { text-align: left; white-space: normal; vertical-align: top; overflow-wrap: anywhere; }
.status { color: var(--bad); font-weight: 600; }
figure { margin: .6rem 0 0; }
svg, img { max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .84rem; color: var(--soft); }
dt { font-weight: 600; } dd { margin: 0; }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(title: str, table: Sequence[Row], plots: Mapping[str, str], cycles: Mapping[str, str] | None = None) -> str:
    """The page, UTF-8 text.

    Args:
        title: heading.
        table: rows in the order to be shown.
        plots: SVG by the name of the plot, with a transparent background.
        cycles: SVG of cycle reports by variant, with a white background.
    """
    done, bad = [one for one in table if one["status"] != "failed"], [one for one in table if one["status"] != "ok"]
    facts = [("variants", str(len(table)))] + [
        (name, ", ".join(sorted({one[key] for one in table})))
        for name, key in (("model", "model"), ("corpus", "corpus"), ("split", "split"))
    ]
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{' · '.join(f'{_text(name)}: {_text(value)}' for name, value in facts)}</p>",
        "<h2>Variants</h2>",
        "<p>Best word error rate first. An empty cell is a figure that does not apply.</p>" if done else "<p>No variant succeeded.</p>",
    ]
    if done:
        parts.append(_variants(done))
    if bad:
        parts.append(f'<h2>Not usable <span class="status">({len(bad)})</span></h2>' + _failures(bad))
    for name, drawing in plots.items():
        heading, caption = CAPTIONS[name]
        parts.append(f"<h2>{_text(heading)}</h2><p>{_text(caption)}</p><figure>{_inline(drawing)}</figure>")
    parts += _cycles([(one, cycles[one["variant"]]) for one in table if one["variant"] in cycles] if cycles else [])
    parts.append(
        "<h2>Columns</h2><dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(what)}</dd>" for name, _, what, _ in COLUMNS if what) + "</dl>"
    )
    return PAGE.format(title=_text(title), style=STYLE, body="\n".join(parts))


def _variants(table: Sequence[Row]) -> str:
    shown = [column for column in COLUMNS if any(column[3](one) for one in table)]
    head = "<th>variant</th>" + "".join(f"<th>{_text(name)}<small>{_text(unit)}</small></th>" for name, unit, _, _ in shown)
    body = []
    for one in table:
        cells = "".join(f"<td{' class=main' if name == 'WER' else ''}>{_text(show(one))}</td>" for name, _, _, show in shown)
        body.append(f"<tr{' class=over' if one['status'] == 'over_budget' else ''}><td>{_id(one)}</td>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n' + "\n".join(body) + "\n</tbody></table></div>"


def _cycles(pictures: Sequence[tuple[Row, str]]) -> list[str]:
    """The cycle reports as images, as many as there is room for."""
    parts, room = [], MOST_PICTURES
    for one, drawing in pictures:
        data = base64.b64encode(drawing.encode()).decode()
        room -= len(data)
        if room < 0:
            break
        name = _text(one["variant"])
        source = f"data:image/svg+xml;base64,{data}"
        parts.append(f'<details open><summary>{_id(one)}</summary><img alt="Cycles by module of {name}" src="{source}"></details>')
    if not pictures:
        return []
    left = f" {len(pictures) - len(parts)} more lie beside their variants (cycles.svg)." if len(parts) < len(pictures) else ""
    caption = "Vela's estimate of one window, by module of the model and kind of operator, beside what MACs and weights need at least."
    return [f"<h2>Where the cycles go</h2><p>{_text(caption + left)}</p>", *parts]


def _failures(table: Sequence[Row]) -> str:
    lines = []
    for one in table:
        status, reason = one["status"].replace("_", " "), one.get("reason", "")
        lines.append(f'<tr><td>{_id(one)}</td><td class="status">{_text(status)}</td><td>{_text(reason)}</td></tr>')
    return '<div class="scroll"><table class="bad"><tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"


def _inline(drawing: str) -> str:
    """The SVG for a page that may be light or dark: its text takes the page's colour; ids that nothing refers to go."""
    used = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", drawing))
    drawing = re.sub(r' id="([^"]*)"', lambda found: found.group(0) if found.group(1) in used else "", drawing)
    return drawing.replace(f"fill: {INK}", "fill: currentColor").replace(f"stroke: {INK}", "stroke: currentColor")


def _id(one: Row) -> str:
    """The variant's id, which may be broken at its slashes."""
    return _text(one["variant"]).replace("/", "/<wbr>")


def _interval(one: Row) -> str:
    return f"{percent(one['wer_ci95_low'])}–{percent(one['wer_ci95_high'])}" if "wer_ci95_low" in one else ""


def _errors(one: Row) -> str:
    return f"{one['substitutions']} / {one['deletions']} / {one['insertions']}" if "substitutions" in one else ""


def _text(value: str) -> str:
    return html.escape(str(value), quote=True)
