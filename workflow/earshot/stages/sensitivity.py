"""`python -m earshot.stages.sensitivity`: what it costs to quantize each part of a model, and each kind of operator, by each scheme."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tqdm import tqdm

from earshot import sensitivity_plot
from earshot.config import SensitivityStage
from earshot.errors import ConfigError
from earshot.files import atomic, write_json
from earshot.quantize import schemes, sensitivity
from earshot.quantize.laboratory import Laboratory
from earshot.quantize.mixing import FLOAT
from earshot.quantize.probe import Measured
from earshot.stages import stage


def told(measured: Measured) -> dict:
    return {**asdict(measured), "sqnr_db": measured.sqnr_db}


@stage("sensitivity")
def main(cfg: SensitivityStage) -> None:
    started = time.monotonic()
    quantized = {name: quant for name, quant in cfg.schemes.items() if quant.quantize}
    if not quantized:
        raise ConfigError(f"schemes: {', '.join(cfg.schemes)}: none that quantizes; give sensitivity.schemes one for family {cfg.family}")
    for quant in quantized.values():
        schemes.check(quant, cfg.family)
    laboratory = Laboratory(cfg)
    table: list[sensitivity.Row] = []
    whole: dict[str, dict] = {}
    for name, quant in quantized.items():
        network = laboratory.network({name: quant}, cfg.calib, "")
        probe = laboratory.probe(network, cfg.sensitivity.dev_utterances)
        network.mix(sensitivity.uniform(FLOAT))
        of_float = probe.measure(network)
        network.mix(sensitivity.uniform(name))
        of_scheme = probe.measure(network)
        whole[name] = {**told(of_scheme), "npu_form": laboratory.npu_form(quant)}
        bar = partial(tqdm, desc=f"sensitivity {name}", unit="unit", disable=None)
        table += sensitivity.rows(network, name, probe, of_float, of_scheme, bar)
    out = Path(cfg.out)
    sensitivity.write_csv(out / "sensitivity.csv", table)
    with atomic(out / "sensitivity.svg") as temporary:
        temporary.write_text(sensitivity_plot.svg(table))
    write_json(
        out / "sensitivity.json",
        {
            "family": cfg.family,
            "window_s": cfg.window.seconds,
            "calibration": asdict(cfg.calib),
            "utterances": cfg.sensitivity.utterances,
            "dev_utterances": cfg.sensitivity.dev_utterances,
            "float": told(of_float),
            "whole": whole,
            "rows": [asdict(row) for row in table],
            "seconds": round(time.monotonic() - started, 1),
        },
    )


if __name__ == "__main__":
    main()
