"""metrics.json: all figures of one variant on one target, merged from the evaluations and the lowering, checked against its schema."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema

from earshot import budget
from earshot.errors import ArtifactError
from earshot.files import read_json

SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"
# The forms of one model, from the trained one to what the device runs.
FORMS = ("float", "float_full", "quantized", "integer_graph", "host_pte")
DEVICE_FORMS = ("integer_graph", "host_pte")


def merge(
    identity: dict[str, Any],
    lowering: dict[str, Any],
    evaluations: dict[str, dict[str, Any]],
    *,
    choices: dict[str, Any],
    config: dict[str, Any],
    ladder: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a variant's metrics.json.

    Args:
        identity: model, variant, target, corpus, split.
        lowering: content of lower.json.
        evaluations: content of the evaluation files by what was evaluated (float model, program, variant), those that there are.
        choices: Hydra group -> choice.
        config: Hydra group -> resolved values.
        ladder: content of parity.json.

    What does not apply is absent. A step that failed makes the variant `failed`, with the step and its reason; a compiled program above the
    memory of its target, or figures above `config["budget"]`, make it `over_budget`, with all that is too large; what is known is kept.
    """
    parts = {**evaluations, "lowering": lowering}
    order = [step for step in ("float", "program", "lowering", "variant") if step in parts]  # the first to fail is the cause of the others
    content: dict[str, Any] = {"status": "ok"}
    for status in ("over_budget", "failed"):  # the second outweighs the first
        reasons = [f"{step}: {parts[step].get('reason', 'no reason given')}" for step in order if parts[step].get("status", "ok") == status]
        content = {"status": status, "reason": reasons[0]} if reasons else content
    content |= identity
    accuracy = accuracies(evaluations)
    if config.get("quant", {}).get("quantize") is False:
        accuracy.pop("quantized", None)  # the exported float program: nothing in it is quantized
    window_s = lowering.get("window_s") or config.get("window", {}).get("seconds")
    content |= _present(
        {
            "accuracy": {form: accuracy[form] for form in FORMS if form in accuracy} or None,
            "parity": parity(ladder) if ladder else None,
            "host": evaluations.get("variant", {}).get("host") or None,
            "npu": lowering.get("npu"),
            "pte_bytes": lowering.get("pte_bytes"),
            "lowering_s": lowering.get("lowering_s"),
            "lowering_peak_rss_mib": lowering.get("peak_rss_mib"),
            "window_s": window_s,
        }
    )
    over = budget.exceeded(budget_figures(content), config.get("budget", {}))
    if over and content["status"] != "failed":
        reasons = [content["reason"]] if content["status"] == "over_budget" else []
        reason = "; ".join([*reasons, *map(str, over)])
        content |= {"status": "over_budget", "reason": reason, "budget": budget.summary(over)}
    return content | {"choices": choices, "config": config}


def budget_figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The figures of a metrics.json that a budget may limit, by the budget's names; those that it has."""
    accuracy, form = metrics.get("accuracy", {}), device_form(metrics)
    wer, wer_float = (accuracy.get(one, {}).get("wer") for one in (form, "float"))
    npu, host = metrics.get("npu", {}), metrics.get("host", {})
    return _present(
        {
            "max_wer_increase": None if None in (wer, wer_float) else wer - wer_float,
            "sram_kib": npu.get("sram_kib"),
            "flash_kib": npu.get("flash_kib"),
            "latency_ms": npu.get("latency_ms", host.get("latency_ms_p50")),
            "pte_bytes": metrics.get("pte_bytes"),
        }
    )


def accuracies(evaluations: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The accuracy of each form that was evaluated."""
    return {form: part["accuracy"][form] for part in evaluations.values() for form in FORMS if form in part.get("accuracy", {})}


def parity(ladder: dict[str, Any]) -> dict[str, Any]:
    """Of a parity ladder what is compared between variants: each form against the float model, and where the integer graph departs."""
    keys = ("sqnr_db", "cosine", "argmax_agreement", "wer_here")
    rungs = {name: {key: one[key] for key in keys if key in one} for name, one in ladder["rungs"].items() if name != "float"}
    departs = ladder.get("depth", {}).get("departs")
    return rungs | {"departs": departs and {key: departs[key] for key in ("module", "operator")}}


def _present(values: dict[str, Any]) -> dict[str, Any]:
    """`values` without what is null, at any depth, and without sections that are empty for that reason."""
    kept = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            value = _present(value) or None
        if value is not None:
            kept[key] = value
    return kept


@functools.cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{schema}.schema.json").read_text()))


def validate(content: dict[str, Any], source: str | Path, schema: str = "metrics") -> None:
    """Check `content`, read from or meant for the file `source`, against workflow/schemas/`schema`.schema.json.

    Raises:
        ArtifactError: names the file, the path of the offending key, and what is wrong with it.
    """
    problems = [(error.json_path, error.message) for error in _validator(schema).iter_errors(content)]
    problems += [(path, f"{value} is not a finite number") for path, value in _not_finite(content, "$")]
    if problems:
        path, message = min(problems)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ArtifactError(
            f"{source}: {path}: {message}{more}; expected is workflow/schemas/{schema}.schema.json; run the step that makes it again"
        )


def _not_finite(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float) and not math.isfinite(value):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _not_finite(item, f"{path}[{index}]")


def read(path: str | Path) -> dict[str, Any]:
    """A metrics.json file, checked.

    Raises:
        ArtifactError: the file is absent, damaged or breaks the schema.
    """
    content = read_json(path)
    validate(content, path)
    return content


def expand(entries: Iterable[str | Path]) -> list[Path]:
    """Paths of metrics.json files: an entry that ends in .txt is a list of them, a path a line (a command line takes only so many).

    Raises:
        ArtifactError: a list is absent.
    """
    paths: list[Path] = []
    for entry in map(Path, entries):
        if entry.suffix != ".txt":
            paths.append(entry)
            continue
        try:
            paths += [Path(line) for line in entry.read_text().splitlines() if line.strip()]
        except OSError as error:
            raise ArtifactError(f"{entry}: cannot read the list of metrics.json files ({error.strerror})") from error
    return paths


def environment(path: str | Path) -> Path:
    """The environment.json beside a metrics.json, with the same ending of a decoding: what the figures were computed with, and on."""
    return Path(path).with_name(f"environment{Path(path).stem.removeprefix('metrics')}.json")


def program_dir(metrics: dict[str, Any], folder: Path) -> Path:
    """The directory of the program that the variant in `folder` was lowered from."""
    folder = folder.absolute()
    *_, model, scheme, _ = folder.parts
    return folder.parents[3] / "programs" / model / scheme / metrics["config"].get("target", {}).get("family", "")


def device_form(metrics: dict[str, Any]) -> str | None:
    """The form of the model that the device runs, where its accuracy was measured: integer_graph before host_pte."""
    return next((form for form in DEVICE_FORMS if form in metrics.get("accuracy", {})), None)


def figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of a metrics.json under short names, the same in MLflow and in the report; rates as fractions.

    `wer`, `cer`, `substitutions` ... are those of what the device runs; those of the other forms carry the form (`wer_float`).
    """
    named: dict[str, float] = {}
    main = device_form(metrics)
    for form, accuracy in metrics.get("accuracy", {}).items():
        ending = "" if form == main else f"_{form}"
        intervals = {name: ends for name, ends in accuracy.items() if "_ci95" in name}
        ends = {f"{name}_{end}": value for name, of in intervals.items() for end, value in zip(("low", "high"), of, strict=False)}
        named |= {f"{key}{ending}": value for key, value in (accuracy | ends).items() if _is_number(value)}
    for form, rung in metrics.get("parity", {}).items():
        named |= {f"parity.{form}.{key}": value for key, value in rung.items() if _is_number(value)}
    npu = metrics.get("npu", {})
    for key, value in npu.items():
        if _is_number(value):
            named[key if key in ("sram_kib", "flash_kib") else f"npu_{key}"] = value
        elif isinstance(value, dict):
            named[key] = sum(value.values())
    for key, value in metrics.get("host", {}).items():
        if _is_number(value):
            named[key if key.startswith("rtf_") else f"host_{key}"] = value
    named |= {key: metrics[key] for key in ("lowering_s", "lowering_peak_rss_mib", "window_s") if key in metrics}
    if "pte_bytes" in metrics:
        named["pte_kib"] = metrics["pte_bytes"] / 1024
    return named


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
