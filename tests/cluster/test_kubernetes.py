"""The profile for Kubernetes, as far as it goes without a cluster: a dry run against an object store that is empty."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from empty_store import empty_store
from running import ROOT, command, jobs

pytest.importorskip("snakemake_executor_plugin_kubernetes", reason="pip install earshot[cluster]")
pytest.importorskip("snakemake_storage_plugin_s3", reason="pip install earshot[cluster]")


@pytest.mark.slow
def test_every_step_would_be_a_pod_with_its_files_in_the_store(tmp_path):
    profile = ["--workflow-profile", str(ROOT / "workflow" / "profiles" / "kubernetes"), "--dry-run"]
    with empty_store() as address:
        settings = {"ENDPOINT_URL": address, "ACCESS_KEY": "any", "SECRET_KEY": "any"}
        environment = os.environ | {f"SNAKEMAKE_STORAGE_S3_{key}": value for key, value in settings.items()}
        words = command(tmp_path, *profile, sweep="quant=int8_pc window=4s target=u85_256")
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    done.stdout = output
    assert jobs(done) >= {"corpus", "features", "tokenizer", "train", "quantize", "tosa", "lower", "evaluate_program", "metrics", "report"}
    outputs = re.findall(r"^    output: (.*)$", output, re.MULTILINE)
    assert outputs and all(path.startswith("s3://earshot/demo/results/") for line in outputs for path in line.split(", "))
    steps = [line for line in re.findall(r"^    resources: (.*)$", output, re.MULTILINE) if "gpu=" in line]
    assert len(steps) >= 10 and all("mem_mb=" in line and "gpu_manufacturer=nvidia" in line for line in steps)
