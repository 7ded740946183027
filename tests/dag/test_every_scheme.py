"""Every scheme of conf/quant/ through the whole chain, by `snakemake`: quantized, lowered, evaluated, in the report.

But for the demo's: they run on Slurm, in tiny size too (tests/cluster), and as they are in .ci/run.
"""

from __future__ import annotations

import csv
import re

import pytest
from running import snakemake

from earshot.config import CONF_DIR
from earshot.pipeline import variants

QAT = "quant.qat.steps=2 quant.qat.period=2 quant.qat.batch=2 quant.qat.dev_utterances=2"
SWEEPS = {
    "quant=int8_uint8_io,a8w4 window=4s target=u85_256": "",
    "quant=int8_float_out,mixed window=4s target=u55_256": "",
    "quant=int8_pc_qat,a8w4_qat window=4s target=u55_256": QAT,
    "quant=bf16,xnnpack_int8,mixed_host window=4s target=host": "",
}


@pytest.mark.slow
@pytest.mark.xdist_group("schemes")  # beside the other tests that need a tiny workflow: it takes as long as many of them
@pytest.mark.timeout(1800)
def test_each_scheme_gives_a_program_with_its_figures(finished):
    rows = []
    for sweep, overrides in SWEEPS.items():
        done = snakemake(finished, "--keep-going", sweep=sweep, overrides=overrides, tracking="off", parity="off")
        assert done.returncode == 0, done.stdout[-3000:]
        with open(finished / "results" / "report" / "variants.csv", newline="") as stream:
            rows += list(csv.DictReader(stream))
    of_demo = {variant.choices["quant"] for variant in variants({})}
    assert {re.split("[-+]", row["scheme"])[0] for row in rows} == {path.stem for path in CONF_DIR.glob("quant/*.yaml")} - of_demo
    for row in rows:
        assert row["status"] == "ok" and float(row["wer"]) >= 0 and float(row["pte_kib"]) > 0, row
        on_npu = not row["variant"].endswith("host")
        assert bool(row["npu_cycles"]) == on_npu, row
        float_tail = on_npu and row["scheme"].startswith("int8_float_out")
        assert (int(row["operators_cpu"] or 0) > 2) == float_tail, row  # two are the ends of a program
