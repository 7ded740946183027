"""Where a result comes from: the commit, the versions of what computed it, the processor. Nothing that is computed depends on it."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

# What decides figures: tensors, speech, decoding, quantizers and compilers.
PACKAGES = (
    *("earshot", "torch", "torchaudio", "lightning", "lhotse", "lilcom", "numpy", "soundfile", "sentencepiece", "espeakng-loader"),
    *("flashlight-text", "jiwer", "torchao", "executorch", "ethos-u-vela", "tosa-tools"),
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")  # by which libraries choose their kernels


def provenance() -> dict[str, str]:
    """The git commit of this package (with `+changes` where files differ; absent outside a checkout), versions, and the processor."""
    found = {"python": platform.python_version(), "platform": platform.platform(), **processor()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return found
    return {"commit": commit + ("+changes" if changes else ""), **found}


def processor() -> dict[str, str]:
    """The model of the processor, and which of INSTRUCTIONS it has; where the system does not say, its architecture alone."""
    try:
        rows = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    except OSError:
        rows = []
    said = {key.strip(): value.strip() for key, value in rows}
    flags = set(said.get("flags", "").split())
    instructions = " ".join(name for name in INSTRUCTIONS if name in flags)
    return {"processor": said.get("model name", platform.machine()), "instructions": instructions}


def of_steps(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The environments of the steps that a variant's figures come from, as these have noted them, and of the one that joins them."""
    return {name: part["environment"] for name, part in parts.items() if "environment" in part} | {"metrics": provenance()}
