"""Every scheme of conf/quant/ through the whole chain, by `snakemake`: quantized, lowered, evaluated, in the report."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from running import snakemake

from earshot.config import CONF_DIR

QAT = "quant.qat.steps=2 quant.qat.period=2 quant.qat.batch=2 quant.qat.dev_utterances=2"
SWEEPS = {
    "quant=int8_pt,int8_uint8_io,a8w4,a16w8 window=4s target=u85_256": "",
    "quant=int8_float_out,mixed window=4s target=u55_256": "",
    "quant=int8_pc_qat,a8w4_qat window=4s target=u55_256": QAT,
    "quant=fp32,bf16,fp16,dynamic_int8,xnnpack_int8,mixed_host window=4s target=host": "",
}


def reported(directory: Path) -> list[dict[str, str]]:
    with open(directory / "results" / "report" / "variants.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
@pytest.mark.xdist_group("schemes")  # beside the other tests that need a tiny workflow: it takes as long as many of them
@pytest.mark.timeout(1800)
def test_each_scheme_gives_a_program_with_its_figures(finished):
    rows = reported(finished)  # of int8_pc, for both
    for sweep, overrides in SWEEPS.items():
        done = snakemake(finished, "--keep-going", sweep=sweep, overrides=overrides, tracking="off", parity="off")
        assert done.returncode == 0, done.stdout[-3000:]
        rows += reported(finished)
    assert {re.split("[-+]", row["scheme"])[0] for row in rows} == {path.stem for path in CONF_DIR.glob("quant/*.yaml")}
    for row in rows:
        assert row["status"] == "ok" and float(row["wer"]) >= 0 and float(row["pte_kib"]) > 0, row
        on_npu = not row["variant"].endswith("host")
        assert bool(row["npu_cycles"]) == on_npu, row
        float_tail = on_npu and row["scheme"].startswith("int8_float_out")
        assert (int(row["operators_cpu"] or 0) > 2) == float_tail, row  # two are the ends of a program
