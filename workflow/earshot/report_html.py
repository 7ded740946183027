"""report.html: tables and plots on one static page, without scripts or anything from elsewhere."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from earshot import budget
from earshot.plot_style import INK
from earshot.report import Row, latency_ms, millions, number, percent
from earshot.report_details import Details
from earshot.search import result

CAPTIONS = {
    "wer_by_form": ("Word error rate by form of the model", "The float model, the quantized program, and what runs on the device."),
    "wer_latency": ("Word error rate against latency", "One window through the network. The line joins variants that none beats in both."),
    "wer_memory": (
        "Word error rate against memory",
        "SRAM for activations and flash for weights, as Vela reports them of the Ethos-U; the bytes of the program file on every target.",
    ),
}

# Pictures of each variant, beside its metrics.json or its program: heading and caption of their section, by the name of the file.
PICTURES = {
    "cycles": (
        "Where the cycles go",
        "Vela's estimate of one window, by module of the model and kind of operator, beside what MACs and weights need at least.",
    ),
    "sram": (
        "Where the SRAM goes",
        "Memory in use while each layer runs, in the order of execution, and what the device must reserve for it.",
    ),
    "parity": (
        "Where precision is lost",
        "The parity ladder: each form of the model against the float model, as a whole and along the depth of the network.",
    ),
}
HEAT_MAPS = (
    "What quantizing a part costs",
    "Each part of the network quantized alone, all else in floats, and left alone in floats; below the line all operators of a kind.",
)
MOST_PICTURES = 700_000  # bytes of pictures on the page: Snakemake's report shows no page above 1.5 MB
MOST_TOLD, MOST_ERRORS = 40, 6  # variants whose details are on the page, the best ones; errors of each

TO_QUANTIZED = "_to_quantized"  # ending of a difference's figures; without one it is to the float model

# Heading, unit, explanation, cell.
COLUMNS: tuple[tuple[str, str, str, Callable[[Row], str]], ...] = (
    ("WER", "%", "word error rate of what runs on the device: integer graph (Ethos-U) or .pte (host)", lambda one: percent(one.get("wer"))),
    ("95% interval", "%", "bootstrap over utterances", lambda one: _interval(one)),
    ("CER", "%", "character error rate", lambda one: percent(one.get("cer"))),
    ("S / D / I", "words", "substitutions, deletions, insertions", lambda one: _errors(one)),
    ("float", "%", "WER of the float model", lambda one: percent(one.get("wer_float"))),
    ("quantized", "%", "WER of the quantized program, before lowering", lambda one: percent(one.get("wer_quantized"))),
    (
        "to float",
        "points",
        "WER on the device minus that of the float model, and its 95% interval: the same draws of utterances for both",
        lambda one: _difference(one),
    ),
    (
        "to quantized",
        "points",
        "WER of the integer graph minus that of the quantized program, and its 95% interval: what lowering costs",
        lambda one: _difference(one, TO_QUANTIZED),
    ),
    ("SQNR", "dB", "logits of what runs on the device against those of the float model", lambda one: number(one.get("sqnr_db"))),
    ("SQNR quantized", "dB", "the same of the quantized program", lambda one: number(one.get("sqnr_db_quantized"))),
    ("departs at", "", "where the integer graph first loses more than the quantized program", lambda one: one.get("departs_at", "")),
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

# Of the trials of a search: heading, unit, cell by its figures.
TRIAL_COLUMNS: tuple[tuple[str, str, Callable[[Mapping[str, float]], str]], ...] = (
    ("WER", "%", lambda figures: percent(figures.get("wer"))),
    ("above float", "points", lambda figures: percent(figures.get(budget.WER))),
    ("cycles", "M", lambda figures: millions(figures.get("cycles"))),
    ("latency", "ms", lambda figures: number(figures.get("latency_ms"))),
    ("SRAM", "KiB", lambda figures: number(figures.get("sram_kib"))),
    ("flash", "KiB", lambda figures: number(figures.get("flash_kib"))),
    (".pte", "KiB", lambda figures: number(figures["pte_bytes"] / 1024) if "pte_bytes" in figures else ""),
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
th.prose, td.prose { text-align: left; white-space: normal; }
tr.over td { color: var(--soft); }
tr.winner td { font-weight: 600; }
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


def page(
    title: str,
    table: Sequence[Row],
    plots: Mapping[str, str],
    pictures: Mapping[str, Mapping[str, str]] | None = None,
    details: Mapping[str, Details] | None = None,
    heat_maps: Mapping[str, str] | None = None,
    searches: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page, UTF-8 text.

    Args:
        title: heading.
        table: rows in the order to be shown.
        plots: SVG by the name of the plot, with a transparent background.
        pictures: by name (see PICTURES) SVG by variant, with a white background.
        details: what else is told of a variant, by variant.
        heat_maps: SVG of sensitivity tables, by the names that they have in paths, with a white background.
        searches: contents of the result.json of searches.
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
        parts += [_variants(done), *_beyond_chance(done)]
    if bad:
        parts.append(f'<h2>Not usable <span class="status">({len(bad)})</span></h2>' + _failures(bad))
    for name, drawing in plots.items():
        heading, caption = CAPTIONS[name]
        parts.append(f"<h2>{_text(heading)}</h2><p>{_text(caption)}</p><figure>{_inline(drawing)}</figure>")
    drawn = {name: of_variants for name, of_variants in (pictures or {}).items() if of_variants}
    maps = _pictures(*HEAT_MAPS, "under results/sensitivity", list((heat_maps or {}).items()), MOST_PICTURES)
    parts += [*_searches(searches), *maps]
    known = [(one, details[one["variant"]]) for one in table if one["variant"] in details] if details else []
    parts += [*_confused(known), *_operators(known)]
    room = MOST_PICTURES - sum(map(len, maps))
    for name, of_variants in drawn.items():
        shown = [(one["variant"], of_variants[one["variant"]]) for one in table if one["variant"] in of_variants]
        parts += _pictures(*PICTURES[name], f"beside their variants ({name}.svg)", shown, room // len(drawn))
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
    return _table(f"<tr>{head}</tr>", body)


def _beyond_chance(table: Sequence[Row]) -> list[str]:
    """A remark that names the variants whose integer graph and quantized program differ by more than their interval allows."""
    low, high = (f"wer_difference_ci95{TO_QUANTIZED}_{end}" for end in ("low", "high"))
    beyond = [one for one in table if one.get(low, 0) > 0 or one.get(high, 0) < 0]
    named = ", ".join(f"{_id(one)}: {_text(_difference(one, TO_QUANTIZED))}" for one in beyond)
    told = (
        "<p>Zero is outside the 95% interval of the difference between the WER of the integer graph and that of the quantized program "
        f"(as it is by chance in one of twenty variants; more speech tells): {named}.</p>"
    )
    return [told] if beyond else []


def _searches(searches: Sequence[Mapping[str, Any]]) -> list[str]:
    """The result of each search, and its trials."""
    parts = ["<h2>Searches</h2>"] if searches else []
    for content in searches:
        limits = ", ".join(f"{name} {budget.number(limit)}" for name, limit in content["budget"].items()) or "none"
        parts += [f"<p>{_path(result.sentence(content))}. Budget: {_text(limits)}.</p>", _trials(content)]
    return parts


def _trials(content: Mapping[str, Any]) -> str:
    """The trials of a search as trials.csv has them, the winner marked."""
    trials, won = result.in_order(content), (content["winner"] or {}).get("variant")
    shown = [column for column in TRIAL_COLUMNS if any(column[2](one["figures"]) for one in trials)]
    head = "".join(f"<th>{_text(name)}<small>{_text(unit)}</small></th>" for name, unit, _ in shown)
    lines = []
    for one in trials:
        kind, told = ("", "ok") if one["status"] == "ok" else ("over", f"{one['status'].replace('_', ' ')}: {one.get('reason', '')}")
        if one["variant"] == won:
            kind = told = "winner"
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in (number(one["round"]), *(show(one["figures"]) for *_, show in shown)))
        lines.append(f'<tr class="{kind}"><td>{_id(one)}</td>{cells}<td class="prose">{_text(told)}</td></tr>')
    return _table(f"<tr><th>trial</th><th>round</th>{head}<th class=prose>result</th></tr>", lines)


def _pictures(heading: str, caption: str, where: str, drawings: Sequence[tuple[str, str]], room: int) -> list[str]:
    """Pictures, each with its id, as images, as many as `room` bytes hold; the others lie `where`."""
    if not drawings:
        return []
    parts = []
    for name, drawing in drawings:
        data = base64.b64encode(drawing.encode()).decode()
        room -= len(data)
        if room < 0:
            break
        source = f"data:image/svg+xml;base64,{data}"
        image = f'<img alt="{_text(heading)}: {_text(name)}" src="{source}">'
        parts.append(f"<details open><summary>{_path(name)}</summary>{image}</details>")
    left = f" {len(drawings) - len(parts)} more lie {where}." if len(parts) < len(drawings) else ""
    return [f"<h2>{_text(heading)}</h2><p>{_text(caption + left)}</p>", *parts]


def _confused(known: Sequence[tuple[Row, Details]]) -> list[str]:
    """The most frequent errors of each variant, as many variants as are told."""
    shown = [(one, detail.confused[:MOST_ERRORS]) for one, detail in known if detail.confused][:MOST_TOLD]
    if not shown:
        return []
    lines = []
    for one, errors in shown:
        told = ", ".join(f"{said or '–'} → {heard or '–'} ({count})" for said, heard, count in errors)
        lines.append(f'<tr><td>{_id(one)}</td><td class="prose">{_text(told)}</td></tr>')
    caption = "The most frequent errors on the device, said → recognized (how often); – is a word that was left out or put in."
    head = "<tr><th>variant</th><th class=prose>errors</th></tr>"
    return [f"<h2>What is confused</h2><p>{_text(caption)}</p>", _table(head, lines)]


def _operators(known: Sequence[tuple[Row, Details]]) -> list[str]:
    """The operators of each variant by kind, as many variants as are told."""
    shown = [(one, detail) for one, detail in known if detail.operators][:MOST_TOLD]
    if not shown:
        return []
    caption = "By kind, and where they run; cycles are Vela's. All variants are in operators.csv."
    parts = [f"<h2>Operators</h2><p>{_text(caption)}</p>"]
    head = "<tr><th>operator</th><th>runs on</th><th>count</th><th>cycles</th><th>share<small>%</small></th></tr>"
    for one, detail in shown:
        lines = []
        for kind in detail.operators:
            cells = (kind.operator, kind.where, number(kind.count), number(kind.cycles), percent(kind.share))
            lines.append("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>")
        left = f" – in floats, on the CPU: {_text(', '.join(detail.in_floats))}" if detail.in_floats else ""
        parts.append(f"<details><summary>{_id(one)}{left}</summary>{_table(head, lines)}</details>")
    return parts


def _table(head: str, lines: Sequence[str]) -> str:
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"


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


def _id(one: Mapping[str, Any]) -> str:
    return _path(one["variant"])


def _path(text: str) -> str:
    """A text with ids, which may be broken at their slashes."""
    return _text(text).replace("/", "/<wbr>")


def _interval(one: Row) -> str:
    return f"{percent(one['wer_ci95_low'])}–{percent(one['wer_ci95_high'])}" if "wer_ci95_low" in one else ""


def _difference(one: Row, to: str = "") -> str:
    if f"wer_difference{to}" not in one:
        return ""
    ends = [one[key] for end in ("low", "high") if (key := f"wer_difference_ci95{to}_{end}") in one]
    return f"{100 * one[f'wer_difference{to}']:+.2f}" + (f" ({100 * ends[0]:+.2f} … {100 * ends[1]:+.2f})" if len(ends) == 2 else "")


def _errors(one: Row) -> str:
    return f"{one['substitutions']} / {one['deletions']} / {one['insertions']}" if "substitutions" in one else ""


def _text(value: str) -> str:
    return html.escape(str(value), quote=True)
