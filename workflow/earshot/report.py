"""The variants side by side: table (CSV, Markdown), plots, a page; and the verdict over them."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from earshot import variant_metrics
from earshot.errors import ArtifactError, EarshotError
from earshot.files import atomic

Row = dict[str, Any]

COLUMNS = (
    *("variant", "model", "scheme", "target", "corpus", "split", "status", "reason", "wer_form"),
    *("wer", "wer_ci95_low", "wer_ci95_high", "cer", "substitutions", "deletions", "insertions", "words", "utterances"),
    *("wer_float", "wer_float_full", "wer_quantized", "wer_difference", "wer_difference_ci95_low", "wer_difference_ci95_high"),
    *("wer_difference_to_quantized", "wer_difference_ci95_to_quantized_low", "wer_difference_ci95_to_quantized_high"),
    *("sqnr_db", "sqnr_db_quantized", "argmax_agreement", "departs_at"),
    *("npu_latency_ms", "npu_rtf", "npu_cycles", "npu_macs", "operators_npu", "operators_cpu", "sram_kib", "flash_kib"),
    *("host_latency_ms_p50", "host_latency_ms_p95", "rtf_1_thread", "rtf_all_threads", "host_peak_rss_mib"),
    *("pte_kib", "window_s", "lowering_s", "budget_excess"),
)


class VariantsFailed(EarshotError):
    """Some variants of a table failed; their rows and those of the others were written."""


def row(metrics: dict[str, Any]) -> Row:
    """The row of a metrics.json; what does not apply is absent."""
    figures = variant_metrics.figures(metrics)
    parts = metrics["variant"].split("/")
    values = {
        **{key: metrics[key] for key in ("variant", "model", "target", "corpus", "split", "status")},
        "scheme": parts[1] if len(parts) == 3 else metrics["variant"],
        "reason": metrics.get("reason"),
        "budget_excess": metrics.get("budget", {}).get("excess"),
        "wer_form": variant_metrics.device_form(metrics),
        **figures,
        **parity(metrics),
    }
    return {column: values[column] for column in COLUMNS if values.get(column) is not None}


def parity(metrics: dict[str, Any]) -> dict[str, Any]:
    """The columns of the parity ladder: of what runs on the device, and of the quantized program."""
    ladder = metrics.get("parity", {})
    device, quantized, departs = (ladder.get(rung, {}) for rung in (variant_metrics.device_form(metrics), "quantized", "departs"))
    return {
        "sqnr_db": device.get("sqnr_db"),
        "sqnr_db_quantized": quantized.get("sqnr_db"),
        "argmax_agreement": device.get("argmax_agreement"),
        "departs_at": f"{departs['operator']} in {departs['module']}" if departs else None,
    }


def rows(metrics: Iterable[dict[str, Any]]) -> list[Row]:
    """The rows of all variants, best WER first, those that failed at the end.

    Raises:
        ArtifactError: a row breaks workflow/schemas/variants.schema.json.
    """
    found = [row(content) for content in metrics]
    for one in found:
        variant_metrics.validate(one, one["variant"], "variants")
    return sorted(found, key=lambda one: (one["status"] == "failed", one.get("wer", math.inf), one["variant"]))


def write_csv(path: str | Path, table: Sequence[Row]) -> None:
    """Write variants.csv: an empty cell is a figure that does not apply."""
    with atomic(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(table)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """The rows of a variants.csv, all cells as text.

    Raises:
        ArtifactError: no such file, or not such a table.
    """
    try:
        with Path(path).open(newline="") as stream:
            found = list(csv.DictReader(stream))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); run the report step") from error
    if not found or not {"variant", "status", "reason"} <= found[0].keys():
        raise ArtifactError(f"{path}: not a table of variants (columns variant, status, reason, ...); run the report step again")
    return found


CLOSEST = 3  # variants that are named where none meets the budget


def verdict(table: Iterable[dict[str, Any]], trials: Collection[str] = ()) -> None:
    """Nothing, if no variant failed; those of `trials` may: what a search made of them is its own result.

    Raises:
        VariantsFailed: names each variant that failed or is over its budget, with its reason; where none meets the budget, the closest.
    """
    table = list(table)
    bad = [one for one in table if one["status"] != "ok" and one["variant"] not in trials]
    if not bad:
        return
    lines = [f"  {one['variant']} ({one['status']}): {' '.join(str(one.get('reason', '')).split())}" for one in bad]
    over = sorted((one for one in table if one.get("budget_excess")), key=lambda one: float(one["budget_excess"]))
    if over and all(one["status"] != "ok" for one in table):
        lines.append(f"  no variant meets the budget; closest: {', '.join(one['variant'] for one in over[:CLOSEST])}")
    raise VariantsFailed("\n".join([f"{len(bad)} of {len(table)} variants did not succeed; the table has all of them", *lines]))


# ---------------------------------------------------------------- for people


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def number(value: float | None) -> str:
    """Three significant digits, thousands apart; a whole number stays whole."""
    if value is None:
        return ""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def millions(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:.2f}"


# Heading, unit, what the cell shows of a row; the first one is text, the others numbers.
SHORT_TABLE = (
    ("variant", "", lambda one: one["variant"]),
    ("WER", "%", lambda one: percent(one.get("wer"))),
    ("float", "%", lambda one: percent(one.get("wer_float"))),
    ("quantized", "%", lambda one: percent(one.get("wer_quantized"))),
    ("latency", "ms", lambda one: number(latency_ms(one))),
    ("SRAM", "KiB", lambda one: number(one.get("sram_kib"))),
    ("flash", "KiB", lambda one: number(one.get("flash_kib"))),
    (".pte", "KiB", lambda one: number(one.get("pte_kib"))),
)


def latency_ms(one: Row) -> float | None:
    """Of one window: Vela's estimate for an NPU, the measured median on the host."""
    return one.get("npu_latency_ms", one.get("host_latency_ms_p50"))


def markdown(table: Sequence[Row]) -> str:
    """The short table in Markdown, aligned, so that it reads well in a terminal too; failed variants below, with their reasons."""
    headings = [f"{name} {unit}".strip() for name, unit, _ in SHORT_TABLE]
    cells = [[_cell(show(one)) for _, _, show in SHORT_TABLE] for one in table if one["status"] != "failed"]
    widths = [max(3, *(len(line[i]) for line in [headings, *cells])) for i in range(len(headings))]

    def line(values: Sequence[str]) -> str:
        first, *others = zip(values, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(value.rjust(width) for value, width in others)]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    bad = [f"- {_cell(one['variant'])} ({one['status']}): {_cell(one.get('reason', ''))}" for one in table if one["status"] != "ok"]
    return "\n".join([line(headings), rule, *map(line, cells), *(["", *bad] if bad else [])]) + "\n"


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
