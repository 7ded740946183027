"""`python -m earshot.stages.metrics`: one metrics.json of a variant out of its evaluations and its lowering, and what these ran on."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from earshot import SCHEMA_VERSION, metrics, provenance, utterance_table, variant_metrics
from earshot.config import MetricsStage
from earshot.errors import ConfigError
from earshot.files import read_json, write_json
from earshot.stages import stage


@stage("metrics")
def main(cfg: MetricsStage) -> None:
    ids = cfg.variant.split("/")
    if len(ids) != 3 or not all(ids):
        raise ConfigError(f"variant={cfg.variant}: give the three ids, variant=MODEL/SCHEME/TARGET")
    lowering = read_json(cfg.lower_json)
    sources = {"float": cfg.float_json, "program": cfg.program_json, "variant": cfg.variant_json}
    evaluations = {name: read_json(path) for name, path in sources.items() if path}
    if lowering.get("status") == "ok" and not variant_metrics.device_form({"accuracy": variant_metrics.accuracies(evaluations)}):
        key = "program_json" if "npu" in lowering else "variant_json"
        raise ConfigError(f"{key}: {cfg.lower_json} was lowered, so the accuracy of what the device runs is wanted; add {key}=FILE")
    config = _mapping(cfg.config, "config")
    add_differences(evaluations, sources, config.get("evaluation", {}))
    content = variant_metrics.merge(
        {"model": ids[0], "variant": cfg.variant, "target": ids[2], "corpus": cfg.corpus_id, "split": cfg.split},
        lowering,
        evaluations,
        choices=_mapping(cfg.choices, "choices"),
        config=config,
        ladder=read_json(cfg.parity_json) if cfg.parity_json else None,
    )
    variant_metrics.validate({"schema_version": SCHEMA_VERSION, **content}, cfg.out)
    write_json(variant_metrics.environment(cfg.out), provenance.of_steps({"lowering": lowering, **evaluations}))
    write_json(cfg.out, content)


def add_differences(evaluations: dict[str, dict[str, Any]], sources: dict[str, str | None], evaluation: dict[str, Any]) -> None:
    """Say of each form how its WER differs from the float model's, with the interval, where both recognized the same utterances."""
    given = {name: path for name, path in sources.items() if path}
    if "float" not in evaluations or not (table := utterance_table.beside(given["float"])).is_file():
        return
    of_float = utterance_table.read(table)
    for name, first in (("program", "quantized"), ("variant", "host_pte")):
        for form, accuracy in evaluations.get(name, {}).get("accuracy", {}).items():
            rows = utterance_table.read(utterance_table.beside(given[name]), None if form == first else form)
            if [(row.id, row.reference) for row in rows] == [(row.id, row.reference) for row in of_float]:
                accuracy |= metrics.wer_difference(rows, of_float, evaluation.get("bootstrap", 0), evaluation.get("seed", 0))


def _mapping(value: Any, key: str) -> dict[str, Any]:
    """`value`, or where it is a path, the content of that YAML or JSON file."""
    if isinstance(value, str):
        try:
            value = OmegaConf.to_container(OmegaConf.load(value), resolve=True)
        except Exception as error:
            raise ConfigError(f"{key}={value}: cannot be read as a YAML or JSON file ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{key}={value!r}: give a mapping, {key}={{quant: int8_pc}}, or the path of a YAML or JSON file")
    return value


if __name__ == "__main__":
    main()
